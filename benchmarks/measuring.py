"""Measuring: wall time, CPU time of this process, medians, and one result as a value."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class Span:
    """What a measured stretch took, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass
class Result:
    """One line of the report. ``figures`` are named with their unit."""

    workload: str
    store: str
    figures: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def cpu_seconds() -> float:
    """CPU time of all threads of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def measured() -> Iterator[Span]:
    """Measure the block."""
    span = Span()
    cpu, start = cpu_seconds(), perf_counter()
    yield span
    span.wall, span.cpu = perf_counter() - start, cpu_seconds() - cpu


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident_bytes() -> int:
    """Memory of this process now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
