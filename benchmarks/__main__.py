"""``python -m benchmarks``: runs the workloads and prints a table, or JSON lines with ``--json``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
from importlib.metadata import version
from statistics import median

from benchmarks.measuring import Result
from benchmarks.plan import in_a_process, plan
from benchmarks.stores import Store


def _median(results: list[Result]) -> Result:
    figures = {name: median(result.figures[name] for result in results) for name in results[0].figures}
    return Result(results[0].workload, results[0].store, figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="mongodb://host:port or memory://; default: SQLite files in a temporary folder")
    parser.add_argument("--runs", type=int, default=3, help="runs per workload; the medians are shown (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default="", help="only these workloads: W1, W1-latency, W2, ... W10, memory")
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
    for name, _ in plan(store, options.quick, options.only):
        result = _median([in_a_process(name, options.url, options.quick) for _ in range(options.runs)])
        if options.json:
            print(json.dumps(result.as_json()), flush=True)
        else:
            figures = "   ".join(f"{name} {value:,.4g}" for name, value in result.figures.items())
            print(f"{result.workload:26} {figures}", flush=True)


if __name__ == "__main__":
    main()
