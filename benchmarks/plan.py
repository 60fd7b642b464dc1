"""What is run, at which size; each workload in a process of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeAlias

from benchmarks import patterns as p
from benchmarks import workloads as w
from benchmarks.measuring import Result
from benchmarks.stores import Store

Workload: TypeAlias = Callable[[], Awaitable[Result]]


def plan(store: Store, quick: bool, only: str) -> list[tuple[str, Workload]]:
    """The workloads named ``only``, or ``only`` and a dash and more, or all; sized for the store."""
    slow_store = store.name == "mongodb"
    small = quick or slow_store
    found: list[tuple[str, Workload]] = [
        ("W1-latency", lambda: w.w1_latency(store, 50 if small else 500)),
        ("W1-throughput", lambda: w.w1_throughput(store, 400 if small else 5000)),
        ("W2", lambda: w.w2_fan_out(store)),
        ("W3", lambda: w.w3_sequence(store, 200 if small else 1000)),
        ("W4", lambda: p.w4_children(store, 20 if slow_store else 100)),
        ("W5", lambda: p.w5_event(store, 50 if small else 300)),
        ("W6-small", lambda: w.w6_cold_replay(store, 200 if small else 1000)),
        ("W7", lambda: p.w7_sleepers(store, 500 if small else 10_000)),
        ("W8-one", lambda: p.w8_signals(store, 200 if small else 1000, 1)),
        ("W8-many", lambda: p.w8_signals(store, 200 if small else 1000, 100)),
        ("W10", lambda: p.w10_eternal(store, 100 if small else 10_000)),
    ]
    if not small:
        found.append(("W6-large", lambda: w.w6_cold_replay(store, 10_000)))
        found.append(("memory", lambda: w.idle_memory(store, 20_000)))
    return [(name, run) for name, run in found if not only or name == only or name.startswith(f"{only}-")]


def in_a_process(name: str, url: str | None, quick: bool) -> Result:
    """Run one workload in a process of its own, so that none inherits the memory or the garbage of another."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_one, name, url, quick).result()


def run_one(name: str, url: str | None, quick: bool) -> Result:
    """Run the workload of that name in this process."""
    logging.getLogger("durable").setLevel(logging.ERROR)  # a worker that is stopped in the middle of its work says so
    ((_, workload),) = plan(Store(url), quick, name)
    return asyncio.run(_run(workload))


async def _run(workload: Workload) -> Result:
    return await workload()
