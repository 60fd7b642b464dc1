"""What is run, and at which size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeAlias

from durable.bench import patterns as p
from durable.bench import workloads as w
from durable.bench.measuring import Result
from durable.bench.scaling import w9_workers
from durable.bench.stores import Store

Workload: TypeAlias = Callable[[Store], Awaitable[Result]]


def plan(kind: str, quick: bool) -> dict[str, Workload]:
    """The workloads for a kind of store, by name. Those over a network are as small as the ``quick`` ones."""
    small = quick or kind == "mongodb"
    found: dict[str, Workload] = {
        "W1-latency": partial(w.w1_latency, count=20 if quick else 50 if small else 500),
        "W1-throughput": partial(
            w.w1_throughput, count=100 if quick else 400 if small else 5000, in_flight=50 if quick else 200
        ),
        "W2": partial(w.w2_fan_out, width=200 if quick else 1000),
        "W3": partial(w.w3_sequence, count=200 if small else 1000),
        "W4": partial(p.w4_children, children=20 if small else 100, count=5 if quick else 20),
        "W5": partial(p.w5_event, count=50 if small else 300),
        "W6-small": partial(w.w6_cold_replay, size=200 if small else 1000),
        "W6-large": partial(w.w6_cold_replay, size=10_000),
        "W7": partial(p.w7_sleepers, count=500 if small else 10_000, idle=2.0 if quick else 10.0),
        "W8-one": partial(p.w8_signals, count=200 if small else 1000, entities=1),
        "W8-many": partial(p.w8_signals, count=200 if small else 1000, entities=100),
        "W9": partial(w9_workers, per_partition=1, rounds=5_000) if quick else partial(w9_workers, per_partition=2),
        "W10": partial(p.w10_eternal, generations=100 if small else 10_000),
        "memory": partial(w.idle_memory, count=20_000),
    }
    left_out = {"W6-large", "memory"} if small else set()
    if kind == "memory":
        left_out |= {"W9"}  # another process does not see that store
    return {name: run for name, run in found.items() if name not in left_out}


def chosen(names: Collection[str], only: str | None) -> list[str]:
    """Those of ``names`` that ``only`` names, with commas between: ``W4``, ``W1-latency``, or ``W1`` for all of W1.

    All without it. Raises ValueError for a name that is none of these.
    """
    if only is None:
        return list(names)
    found: list[str] = []
    for asked in filter(None, map(str.strip, only.split(","))):
        those = [name for name in names if asked.casefold() in (name.casefold(), name.casefold().partition("-")[0])]
        if not those:
            raise ValueError(f"there is no workload {asked!r} for this store and size; there are {', '.join(names)}")
        found += [name for name in those if name not in found]
    if not found:
        raise ValueError(f"no workload is named; there are {', '.join(names)}")
    return found
