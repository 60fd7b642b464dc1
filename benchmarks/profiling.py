"""``python -m benchmarks.profiling``: where a workload's time goes, by part of the code, on SQLite.

py-spy looks at the stacks of all running threads from outside, so that what is measured is what runs without it.
A sample belongs to the innermost frame of a known part; what a part calls, in C or in libraries, is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from shutil import which

from durable.bench.stores import a_store

WORKLOADS = ("W1-throughput", "W1-latency", "W3")
"""Those that run long enough to be looked at, and write nothing before they begin."""
RATE = 500
"""Samples a second."""

PARTS = {
    "durable/payloads.py": "values and events to JSON and back",
    "durable/core/codec.py": "values and events to JSON and back",
    "durable/core/": "replay core: turns, deterministic loop, futures, state",
    "durable/worker/activities.py": "activities: tasks and outcomes",
    "durable/worker/calls.py": "activities: tasks and outcomes",
    "durable/worker/": "worker: mailboxes, records, group commit, cache",
    "durable_sqlite/": "backend in the loop's thread: rows, hand-over",
    "durable/bench/": "the workload itself: orchestrator, activity, who starts",
    "durable/": "client and definitions: starts, results, calls",
    "asyncio/runners.py": "the host's event loop, its waits among them",
}
"""What a file's path begins with, in the order in which it is looked at."""

WRITER = "backend in the writer's thread: SQLite, syncs"
ELSEWHERE = "everything else"
BEFORE = ("<frozen importlib", "CallCodec.prepare", "durable/bench/running.py")
"""Frames of what goes before the workload."""
WAITING = ("ConnectionThread._next ", "Condition.wait ")
"""Innermost frames of threads that have nothing to do; py-spy takes some of them for running."""


def part_of(stack: str) -> str | None:
    """The part that a stack, as py-spy writes it, belongs to; None when it waits or goes before the workload."""
    thread, *frames = stack.split(";")
    if any(frame in stack for frame in BEFORE) or not frames or frames[-1].startswith(WAITING):
        return None
    if thread.endswith("-writer"):
        return WRITER
    for frame in reversed(frames):
        place = frame.rpartition("(")[2]
        for beginning, part in PARTS.items():
            if place.startswith(beginning):
                return part
    return ELSEWHERE


def shares(lines: Iterable[str]) -> Counter[str]:
    """Samples by part, from py-spy's raw format: a stack and its count on each line."""
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        part = part_of(stack)
        if part is not None:
            counted[part] += int(count)
    return counted


def sampled(name: str, py_spy: str) -> Counter[str]:
    """The samples of one run of a workload of the suite."""
    with a_store(None) as store, tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder, "stacks.txt")
        task = json.dumps({"name": name, "store": replace(store, floors=False).as_json(), "quick": False})
        look = (py_spy, "record", "--threads", "--rate", str(RATE), "--format", "raw", "--output", str(stacks))
        workload = (sys.executable, "-m", "durable.bench.child", task)
        ran = subprocess.run((*look, "--", *workload), capture_output=True, text=True)
        if ran.returncode:
            sys.exit(f"py-spy, or the workload under it, failed with {ran.returncode}:\n{ran.stderr}")
        return shares(stacks.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a workload's time goes, by part of the code (needs py-spy).")
    parser.add_argument("workload", nargs="?", choices=WORKLOADS, default=WORKLOADS[0])
    parser.add_argument("--runs", type=int, default=3, help="runs, whose samples are put together")
    asked = parser.parse_args()
    # beside the interpreter when its virtualenv is not activated
    py_spy = which("py-spy") or which("py-spy", path=str(Path(sys.executable).parent))
    if py_spy is None:
        parser.error("py-spy is not installed; pip install py-spy")
    counted: Counter[str] = Counter()
    for _ in range(asked.runs):
        counted += sampled(asked.workload, py_spy)
    for part, count in counted.most_common():
        print(f"{100 * count / counted.total():5.1f} %  {part}")
    print(f"{counted.total()} samples of {asked.workload}")


if __name__ == "__main__":
    main()
