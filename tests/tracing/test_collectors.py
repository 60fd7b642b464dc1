"""Spans through what others have written: a collector in between, and a real Jaeger where one is named.

``JAEGER_URL=http://localhost:16686 pytest -m jaeger`` asks a Jaeger that also takes OTLP over HTTP, at
``OTEL_EXPORTER_OTLP_ENDPOINT`` or port 4318 of the same host.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_config_var
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen
from uuid import uuid4

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter

from durable.projection import project, span_to_dict, trace_id
from durable_otel import export_history
from tests.otlp_sink import DEADLINE, Sink
from tests.tracing.conftest import RESOURCE, MakeHub
from tests.tracing.histories import everything
from tests.tracing.test_over_the_wire import check_whole, registry, steps


def rotel_environment() -> dict[str, str]:
    """The program wants Python's shared library, which need not lie where the system looks for such."""
    places = get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, places))}


def rotel_program() -> Path | None:
    """The collector's program, where its package has one that runs on this machine with this Python."""
    found = find_spec("rotel")
    path = None if found is None or found.origin is None else Path(found.origin).parent / "rotel-agent"
    if path is None or not path.exists():
        return None
    tried = subprocess.run([path, "--version"], env=rotel_environment(), capture_output=True)
    return path if tried.returncode == 0 else None


needs_rotel = pytest.mark.skipif(
    rotel_program() is None, reason="rotel has no program for this machine, or Python's shared library is not there"
)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def rotel(sink: Sink, onward: str, log: Path) -> Iterator[tuple[int, int]]:
    """A collector that passes all on to ``sink``; its ports for gRPC and HTTP."""
    program = rotel_program()
    assert program is not None
    grpc_port, http_port = free_port(), free_port()
    target = sink.grpc_port if onward == "grpc" else sink.http_port
    command = [
        *(str(program), "start", "--exporter", "otlp", "--otlp-exporter-protocol", onward, "--batch-timeout", "100ms"),
        *("--otlp-exporter-endpoint", f"http://127.0.0.1:{target}"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=rotel_environment(), stdout=output, stderr=output)
        try:
            for port in (grpc_port, http_port):
                wait_for_port(port, process, log)
            yield grpc_port, http_port
        finally:
            process.terminate()
            process.wait(DEADLINE)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = monotonic() + DEADLINE
    while monotonic() < deadline and process.poll() is None:
        with suppress(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", port))):
            return
        sleep(0.02)
    raise AssertionError(f"the collector does not listen: {log.read_text('utf-8', 'replace')}")


@needs_rotel
@pytest.mark.parametrize("onward", ["grpc", "http"])
@pytest.mark.parametrize("there", ["grpc", "http"])
async def test_a_collector_of_somebody_else_passes_all_of_it_on(
    there: str, onward: str, sink: Sink, tmp_path: Path
) -> None:
    with rotel(sink, onward, tmp_path / "rotel.log") as (grpc_port, http_port):
        exporter: SpanExporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{http_port}/v1/traces")
        if there == "grpc":
            exporter = GrpcExporter(endpoint=f"127.0.0.1:{grpc_port}", insecure=True)
        count = await asyncio.to_thread(export_history, exporter, "default", everything(), resource=RESOURCE)
        await asyncio.to_thread(sink.wait, lambda sink: len(sink.spans) == count)
        exporter.shutdown()
    expected = {span["span_id"]: span for span in map(span_to_dict, project("default", everything()))}
    assert sink.distinct().keys() == expected.keys()
    for one in sink.spans:
        span = expected[one.span_id]
        assert (one.name, one.kind, one.attributes) == (span["name"], span["kind"], span["attributes"])
        assert one.parent_id == (span["parent_id"] or "")
        assert (one.span.start_time_unix_nano, one.span.end_time_unix_nano) == (span["start"], span["end"])
        assert [link[:2] for link in one.links] == [(link["trace_id"], link["span_id"]) for link in span["links"]]
        assert [event.name for event in one.span.events] == [event["name"] for event in span["events"]]
        assert one.span.status.message == (span["error"] or "")
    assert {one.resource["service.name"] for one in sink.spans} == {"orders"}


@needs_rotel
async def test_a_worker_exports_through_a_collector(sink: Sink, make_hub: MakeHub, tmp_path: Path) -> None:
    with rotel(sink, "http", tmp_path / "rotel.log") as (_, http_port):
        hub = make_hub(exporter=OTLPSpanExporter(endpoint=f"http://127.0.0.1:{http_port}/v1/traces"))
        hub.include(registry)
        async with hub.worker():
            await (await hub.start(steps, 2, instance_id="hop")).result()
        await asyncio.to_thread(sink.wait, lambda sink: len(sink.spans) == 6)
    check_whole(sink.of("hop"))


@pytest.mark.jaeger
@pytest.mark.skipif("JAEGER_URL" not in os.environ, reason="JAEGER_URL names no Jaeger")
async def test_jaeger_finds_an_instance_by_its_id(make_hub: MakeHub) -> None:
    url = os.environ["JAEGER_URL"].rstrip("/")
    collector = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{urlsplit(url).hostname}:4318")
    hub = make_hub(exporter=OTLPSpanExporter(endpoint=f"{collector}/v1/traces"))
    hub.include(registry)
    instance_id = f"jaeger-{uuid4().hex}"
    async with hub.worker():
        handle = await hub.start(steps, 2, instance_id=instance_id)
        await handle.result()
        expected = trace_id("default", instance_id, (await handle.status()).execution_id)
    found = await asyncio.to_thread(search_jaeger, url, instance_id)
    assert [trace["traceID"].zfill(32) for trace in found] == [f"{expected:032x}"]
    assert len({span["spanID"] for span in found[0]["spans"]}) == 6
    assert not any(span.get("warnings") for span in found[0]["spans"])


def search_jaeger(url: str, instance_id: str) -> list[Any]:
    """The traces with a span of that instance, as soon as there is one that is whole."""
    tags = json.dumps({"durabletask.task.instance_id": instance_id})
    query = urlencode({"service": "orders", "tags": tags, "lookback": "1h", "limit": "20"})
    deadline = monotonic() + DEADLINE
    while monotonic() < deadline:
        with urlopen(f"{url}/api/traces?{query}", timeout=DEADLINE) as answer:
            traces: list[Any] = json.load(answer)["data"]
        if traces and len(traces[0]["spans"]) >= 6:
            return traces
        sleep(0.2)
    raise AssertionError(f"Jaeger has no whole trace of {instance_id!r} after {DEADLINE} s")
