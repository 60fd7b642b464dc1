"""W9: what a second worker process is worth. The client is in this process, the workers in others.

Rule of this file: the same instances, as many on every partition, once with one worker and once with two. What the
workers leave of two processors, the store and the client need.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from durable.bench import burning
from durable.bench.measuring import Result, cpu_seconds_of, machine_cpu_seconds, measured
from durable.bench.running import SETTINGS
from durable.bench.stores import Place, Store
from durable.core.ids import partition_of
from durable.hub import TaskHub

_WIDTH = 8  # activities of an instance
_SETTLED = 60.0  # seconds in which the workers must have shared the partitions


@dataclass(frozen=True)
class _Stretch:
    """What was measured with some workers; ``costs`` are milliseconds of processor time for an activity, by whose."""

    rate: float  # activities a second
    busiest: float  # share of them that one process ran
    costs: dict[str, float]


async def w9_workers(store: Store, per_partition: int, rounds: int = burning.ROUNDS) -> Result:
    """Activities that burn processor time, with one worker process and with two."""
    one, two = [await _with_workers(store, number, per_partition, rounds) for number in (1, 2)]
    figures = {
        "two workers / one": two.rate / one.rate,
        "activities/s with one": one.rate,
        "activities/s with two": two.rate,
        "ms of an activity": _activity_seconds(rounds) * 1e3,
        **{f"{whose} CPU ms each, with two": cost for whose, cost in two.costs.items()},
        "share of the busier worker %": two.busiest * 100,
    }
    return Result(f"two workers, {per_partition * SETTINGS.partitions} instances", "activity", figures)


def _activity_seconds(rounds: int) -> float:
    """Processor time of one activity alone; the median of some."""
    costs = []
    for _ in range(10):
        with measured() as span:
            burning.spend(rounds)
        costs.append(span.cpu)
    return median(costs)


async def _with_workers(store: Store, number: int, per_partition: int, rounds: int) -> _Stretch:
    place = store.fresh()
    hub = TaskHub(place.url, name=place.hub, settings=SETTINGS)
    hub.include(burning.registry)
    async with hub, AsyncExitStack() as stack:
        workers = [(await stack.enter_async_context(_worker(place))).pid for _ in range(number)]
        await _shared(hub, number)
        await _all_done(hub, _ids("warm", 1), rounds)
        before = _cpu_seconds(workers)
        start = perf_counter()
        ran = await _all_done(hub, _ids("burn", per_partition), rounds)
        wall, count = perf_counter() - start, ran.total()
        costs = {whose: (now - before[whose]) / count * 1e3 for whose, now in _cpu_seconds(workers).items()}
    return _Stretch(count / wall, max(ran.values()) / count, costs)


def _cpu_seconds(workers: list[int]) -> dict[str, float]:
    """Processor time so far, by whose; nothing where the system does not say."""
    those, this, all_of_it = cpu_seconds_of(workers), cpu_seconds_of([os.getpid()]), machine_cpu_seconds()
    if those is None or this is None or all_of_it is None:
        return {}
    return {"workers'": those, "client's": this, "all others'": all_of_it - those - this}


async def _all_done(hub: TaskHub, ids: list[str], rounds: int) -> Counter[int]:
    """Run an instance of each of these ids; how many activities each process ran."""
    handles = await asyncio.gather(*[hub.start(burning.burn_many, _WIDTH, rounds, instance_id=one) for one in ids])
    results = await asyncio.gather(*[handle.result() for handle in handles])
    return Counter(pid for pids in results for pid in pids)


def _ids(prefix: str, per_partition: int) -> list[str]:
    """Instance ids, ``per_partition`` on each partition: chance would put some more on one worker than on the other."""
    chosen: dict[int, list[str]] = {partition: [] for partition in range(SETTINGS.partitions)}
    number = 0
    while any(len(ids) < per_partition for ids in chosen.values()):
        one = f"{prefix}-{number}"
        ids = chosen[partition_of(one, SETTINGS.partitions)]
        if len(ids) < per_partition:
            ids.append(one)
        number += 1
    return [one for ids in chosen.values() for one in ids]


@asynccontextmanager
async def _worker(place: Place) -> AsyncIterator[Process]:
    """A worker process; told to stop at the end of the block, and waited for."""
    command = (sys.executable, "-m", burning.__name__, place.url, place.hub)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if code := await process.wait():
            raise RuntimeError(f"a worker process ended with code {code}")


async def _shared(hub: TaskHub, number: int) -> None:
    """Wait until so many workers hold all partitions, as many each."""
    wanted = [SETTINGS.partitions // number] * number
    held: list[int] = []
    try:
        async with asyncio.timeout(_SETTLED):
            while held != wanted:
                await asyncio.sleep(0.1)
                held = [len(worker.partitions) for worker in await hub.workers()]
    except TimeoutError:
        raise RuntimeError(f"after {_SETTLED:g} s the workers hold {held} partitions, not {wanted}") from None
