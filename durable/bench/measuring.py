"""Measuring a process: wall time, processor time, memory; and the result of a workload as a value.

Rule of this file: what is not known is left out, never guessed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
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
