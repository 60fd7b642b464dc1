"""Measuring a process: wall time, processor time, memory; and the result of a workload as a value.

Rule of this file: what is not known is left out, never guessed.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

_STATUS = Path("/proc/self/status")


@dataclass
class Span:
    """What a measured stretch took, in seconds; ``cpu`` is that of all threads of this process."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Result:
    """What was measured of a workload. ``figures`` are named with their unit; in them, ``each`` is one of ``each``."""

    title: str
    each: str
    figures: dict[str, float]


@contextmanager
def measured() -> Iterator[Span]:
    """Measure the block, which begins without garbage of before."""
    gc.collect()
    span = Span()
    cpu, start = process_time(), perf_counter()
    yield span
    span.wall, span.cpu = perf_counter() - start, process_time() - cpu


def cpu_seconds_of(pids: Iterable[int]) -> float | None:
    """Processor time of these processes of this machine so far; None where the system does not say (all but Linux)."""
    if not _STATUS.exists():
        return None
    # What is before the parenthesis is a name, which may hold anything.
    rows = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(row[11]) + int(row[12]) for row in rows) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float | None:
    """Seconds for which the processors of this machine were not idle so far; None where the system does not say."""
    if not _STATUS.exists():
        return None
    user, nice, system, _idle, _waiting, *others = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return sum(map(int, (user, nice, system, *others))) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident_bytes() -> int | None:
    """Memory of this process now; None where the system does not say (all but Linux)."""
    return _memory("VmRSS")


def peak_bytes() -> int | None:
    """The most memory that this process has had; None where the system does not say.

    Not ``ru_maxrss``, which a new process takes over from the one that started it.
    """
    return _memory("VmHWM")


def _memory(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024  # the system writes kB and means KiB
