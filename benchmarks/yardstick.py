"""``python -m benchmarks.yardstick``: the engine beside the bare prototype of its design, in turns, on SQLite.

What the engine costs above its design is a ratio, and travels between machines as no rate does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from statistics import median

from benchmarks.prototype import WORKLOADS
from durable.bench.stores import a_store

FIGURES = {
    "W1-latency": ("p50 ms", "CPU ms each"),
    "W1-throughput": ("CPU ms each",),
    "W2": ("activities/s",),
    "W3": ("steps/s",),
}


def answer_of(*command: str) -> dict[str, float]:
    """What a Python program prints as JSON."""
    ran = subprocess.run((sys.executable, "-m", *command), check=True, stdout=subprocess.PIPE)
    answer: dict[str, float] = json.loads(ran.stdout)
    return answer


def of_engine(name: str) -> dict[str, float]:
    """The figures of one run of a workload of the suite, in a process of its own."""
    with a_store(None) as store:
        task = {"name": name, "store": replace(store, floors=False).as_json(), "quick": False}
        result: dict[str, dict[str, float]] = answer_of("durable.bench.child", json.dumps(task))  # type: ignore[assignment]
        return result["figures"]


def compare(name: str, runs: int) -> None:
    """Run both in turns, and print the medians and how many times as much the engine costs."""
    pairs = [(answer_of("benchmarks.prototype", name), of_engine(name)) for _ in range(runs)]
    for figure in FIGURES[name]:
        bare, engine = (median(pair[which][figure] for pair in pairs) for which in (0, 1))
        times = [theirs[figure] / ours[figure] for theirs, ours in pairs]
        if not figure.endswith("/s"):
            times = [1 / each for each in times]
        spread = f"{median(times):6.2f} {min(times):6.2f} {max(times):6.2f}"
        print(f"{name:14} {figure:13} {bare:9.3g} {engine:9.3g} {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine beside the bare prototype of its design.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns")
    runs = parser.parse_args().runs
    print(f"{'':14} {'':13} {'prototype':>9} {'engine':>9} {'times':>6} {'least':>6} {'most':>6}")
    for name in WORKLOADS:
        compare(name, runs)


if __name__ == "__main__":
    main()
