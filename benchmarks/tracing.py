"""``python -m benchmarks.tracing``: hello sequences without tracing, with spans at each commit, and at completion.

The receiver runs in a process of its own and throws away what it gets. On a machine that has other work to do, look at
the processor time rather than at the throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import Queue
from statistics import median
from time import thread_time
from typing import Literal

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from durable import TaskHub
from durable.bench.measuring import measured
from durable.bench.stores import Store, a_store
from durable.bench.workloads import hello, registry
from durable_otel import OpenTelemetry, TraceSettings

CADENCES: tuple[Literal["commit", "completion"] | None, ...] = (None, "commit", "completion")
IN_FLIGHT = 200


class _Discard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(port: Queue[int]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Discard)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def receiver() -> Iterator[str]:
    """The URL of a receiver in another process."""
    context = multiprocessing.get_context("spawn")
    port: Queue[int] = context.Queue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=30)}/v1/traces"
    finally:
        process.terminate()
        process.join()


async def run(
    store: Store, url: str, cadence: Literal["commit", "completion"] | None, count: int
) -> tuple[float, float, float]:
    """Instances a second, and milliseconds of processor time for each: of the process, and of the loop's thread."""
    hub = TaskHub(store.fresh().url)
    hub.include(registry)
    if cadence is not None:
        hub.instrument(OpenTelemetry(OTLPSpanExporter(url), settings=TraceSettings(cadence=cadence, flush_timeout=60)))

    async def several(share: int) -> None:
        for _ in range(share):
            await hello(hub)

    async with hub.worker():
        await several(50)
        loop_before = thread_time()
        with measured() as span:
            await asyncio.gather(*[several(count // IN_FLIGHT) for _ in range(IN_FLIGHT)])
        loop_time = thread_time() - loop_before
    return count / span.wall, span.cpu / count * 1e3, loop_time / count * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds; the medians are shown (default 3)")
    parser.add_argument("--count", type=int, default=2000, help="instances a run (default 2000)")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {str(cadence): [] for cadence in CADENCES}
    with receiver() as url, a_store(None) as store:
        for _ in range(options.runs):
            for cadence in CADENCES:
                found[str(cadence)].append(asyncio.run(run(store, url, cadence, options.count)))
    base = median(figures[0] for figures in found["None"])
    for name, rounds in found.items():
        rate, process, loop = (median(column) for column in zip(*rounds, strict=True))
        label = "off" if name == "None" else f"at {name}"
        print(f"{label:14} {rate:8,.0f} instances/s ({rate / base:4.0%})   CPU ms each {process:.3f}, loop {loop:.3f}")


if __name__ == "__main__":
    main()
