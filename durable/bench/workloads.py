"""The workloads of one instance or many that call activities: W1, W2, W3, W6, and instances that sleep in memory.

W-numbers as in docs/performance.md.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace
from itertools import pairwise
from time import perf_counter

from durable.bench.measuring import Result, measured, percentile, resident_bytes
from durable.bench.running import running
from durable.bench.stores import Store
from durable.core.context import OrchestrationContext
from durable.core.events import TaskCompleted
from durable.definitions import Orchestrator
from durable.hub import TaskHub
from durable.registry import Registry

CITIES = ["Tokyo", "Seattle", "London"]
registry = Registry()
_forever_runs = threading.Event()


@registry.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@registry.activity
async def forever() -> None:
    _forever_runs.set()
    await asyncio.Event().wait()


@registry.orchestrator
async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await say_hello(city) for city in cities]


@registry.orchestrator
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return len(await asyncio.gather(*[say_hello(str(n)) for n in range(width)]))


@registry.orchestrator
async def steps(ctx: OrchestrationContext, count: int, then_wait: bool = False) -> int:
    for n in range(count):
        await say_hello(str(n))
    if then_wait:
        await forever()
    return count


@registry.orchestrator
async def sleeper(ctx: OrchestrationContext) -> None:
    await asyncio.sleep(3600)


async def hello(hub: TaskHub) -> None:
    """A hello sequence from its start to its result."""
    handle = await hub.start(hello_sequence, CITIES)
    expect(len(await handle.result()), len(CITIES))


def expect(found: int, wanted: int) -> None:
    """Raise RuntimeError when a workload did not do what it was to do: its figures would mean nothing."""
    if found != wanted:
        raise RuntimeError(f"the workload came to {found}, and should have come to {wanted}")


async def w1_latency(store: Store, count: int) -> Result:
    """Hello sequences one at a time."""
    times = []
    async with running(store, registry) as run:
        for _ in range(20):
            await hello(run.hub)
        with run.measured():
            for _ in range(count):
                start = perf_counter()
                await hello(run.hub)
                times.append(perf_counter() - start)
    figures = {"p50 ms": percentile(times, 0.5) * 1e3, "p95 ms": percentile(times, 0.95) * 1e3}
    return Result("hello, one at a time", "instance", figures | await run.costs(count))


async def w1_throughput(store: Store, count: int, in_flight: int = 200) -> Result:
    """Hello sequences, many in flight."""
    async with running(store, registry) as run:

        async def starter(share: int) -> None:
            for _ in range(share):
                await hello(run.hub)

        await asyncio.gather(*[starter(1) for _ in range(in_flight)])
        with run.measured() as span:
            await asyncio.gather(*[starter(count // in_flight) for _ in range(in_flight)])
    figures = {"instances/s": count / span.wall}
    return Result(f"hello, {in_flight} in flight", "instance", figures | await run.costs(count))


async def w2_fan_out(store: Store, width: int = 1000) -> Result:
    """One instance that awaits many activities at once."""
    figures, _ = await _one_instance(store, fan_out, width, "activities/s")
    return Result(f"fan-out of {width}", "activity", figures)


async def w3_sequence(store: Store, count: int = 1000) -> Result:
    """One instance with many activities, one after the other."""
    figures, ends = await _one_instance(store, steps, count, "steps/s")
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    tenth = count // 10
    figures = {"last tenth / first": sum(gaps[-tenth:]) / sum(gaps[:tenth])} | figures
    return Result(f"{count} activities in sequence", "activity", figures)


async def _one_instance(
    store: Store, orchestrator: Orchestrator[..., int], size: int, unit: str
) -> tuple[dict[str, float], list[int]]:
    """The figures, and when the activities ended (microseconds)."""
    async with running(store, registry) as run:
        await hello(run.hub)
        await (await run.hub.start(orchestrator, 50)).result()
        with run.measured() as span:
            handle = await run.hub.start(orchestrator, size)
            expect(await handle.result(), size)
        ends = [event.timestamp for event in await handle.history() if isinstance(event, TaskCompleted)]
    return {unit: size / span.wall} | await run.costs(size), ends


async def w6_cold_replay(store: Store, size: int) -> Result:
    """An instance of ``size`` completed activities is loaded by a worker that does not know it; the host's lag."""
    store = replace(store, floors=False)  # nothing is written while it is measured
    place = store.fresh()
    _forever_runs.clear()
    async with running(store, registry, place=place, drain_time=0.1) as run:
        handle = await run.hub.start(steps, size, True)
        await asyncio.to_thread(_forever_runs.wait)
        events = len(await handle.history())
    lags: list[float] = []
    async with running(store, registry, place=place, drain_time=0.1) as run:
        beat = asyncio.create_task(_heartbeat(lags))
        with measured() as span:
            while not run.hub._is_live(handle.instance_id):  # nobody tells of it, and it is soon
                await asyncio.sleep(0.001)
        beat.cancel()
    longest = max(lags, default=0.0) * 1e3
    figures = {"events/s": events / span.wall, "ms": span.wall * 1e3, "longest delay of the host ms": longest}
    return Result(f"cold replay of {size} activities", "instance", figures)


async def _heartbeat(lags: list[float]) -> None:
    while True:
        start = perf_counter()
        await asyncio.sleep(0.001)
        lags.append(perf_counter() - start - 0.001)


async def idle_memory(store: Store, count: int) -> Result:
    """Bytes of a cached sleeping instance, and the cost of starting the last against the first thousand."""
    store = replace(store, floors=False)  # writes that are kept would count
    async with running(store, registry, cache_instances=2 * count) as run:
        await hello(run.hub)
        chunk, costs = min(1000, count // 4), []
        gc.collect()
        before = resident_bytes()
        for _ in range(count // chunk):
            with measured() as span:
                await asyncio.gather(*[run.hub.start(sleeper) for _ in range(chunk)])
            costs.append(span.cpu / chunk)
        gc.collect()
        after = resident_bytes()
    figures = {"CPU ms per start": costs[0] * 1e3, "last start / first": costs[-1] / costs[0]}
    if before is not None and after is not None:
        figures = {"KiB each": (after - before) / count / 1024} | figures
    return Result(f"{count} sleeping instances in memory", "instance", figures)
