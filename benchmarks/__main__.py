"""``python -m benchmarks``: runs the workloads and prints a table, or JSON lines with ``--json``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from statistics import median

from benchmarks import workloads as w
from benchmarks.measuring import Result
from benchmarks.stores import Store


def _plan(store: Store, quick: bool, only: str) -> list[tuple[str, Callable[[], Awaitable[Result]]]]:
    slow_store = store.name == "mongodb"
    small = quick or slow_store
    plan: list[tuple[str, Callable[[], Awaitable[Result]]]] = [
        ("W1-latency", lambda: w.w1_latency(store, 50 if small else 500)),
        ("W1-throughput", lambda: w.w1_throughput(store, 400 if small else 5000)),
        ("W2", lambda: w.w2_fan_out(store)),
        ("W3", lambda: w.w3_sequence(store, 200 if small else 1000)),
        ("W6-small", lambda: w.w6_cold_replay(store, 200 if small else 1000)),
    ]
    if not small:
        plan.append(("W6-large", lambda: w.w6_cold_replay(store, 10_000)))
        plan.append(("memory", lambda: w.idle_memory(store, 20_000)))
    return [(name, workload) for name, workload in plan if name.startswith(only)]


def _median(results: list[Result]) -> Result:
    figures = {name: median(result.figures[name] for result in results) for name in results[0].figures}
    return Result(results[0].workload, results[0].store, figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="mongodb://host:port or memory://; default: SQLite files in a temporary folder")
    parser.add_argument("--runs", type=int, default=3, help="runs per workload; the medians are shown (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument(
        "--only", default="", help="only workloads whose name starts so: W1, W1-latency, W2, W6, memory"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    options = parser.parse_args()
    store = Store(options.url)
    environment = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "store": store.name,
        "sqlite": sqlite3.sqlite_version,
        "durable": version("durable-orchestrations"),
    }
    print(json.dumps(environment) if options.json else "  ".join(f"{k} {v}" for k, v in environment.items()))
    for _, workload in _plan(store, options.quick, options.only):
        result = _median([asyncio.run(_run(workload)) for _ in range(options.runs)])
        if options.json:
            print(json.dumps(result.as_json()), flush=True)
        else:
            figures = "   ".join(f"{name} {value:,.4g}" for name, value in result.figures.items())
            print(f"{result.workload:26} {figures}", flush=True)


async def _run(workload: Callable[[], Awaitable[Result]]) -> Result:
    return await workload()


if __name__ == "__main__":
    main()
