"""The workloads of instances that wait for others: children, events, timers, entities, generations."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from time import perf_counter

from benchmarks.measuring import Result, cpu_seconds, measured, percentile
from benchmarks.stores import Store
from benchmarks.workloads import floor, hello, registry, running
from durable import EntityId, InstanceHandle, OrchestrationContext, TaskHub

_generations: list[float] = []


@registry.orchestrator
async def child(ctx: OrchestrationContext, number: int) -> int:
    return number


@registry.orchestrator
async def parent(ctx: OrchestrationContext, children: int) -> int:
    return sum(await asyncio.gather(*[child(number) for number in range(children)]))


@registry.orchestrator
async def listener(ctx: OrchestrationContext) -> int:
    return await ctx.wait_for_external_event("number", int)


@registry.orchestrator
async def alarm(ctx: OrchestrationContext, at: datetime) -> None:
    await ctx.create_timer(at)


@registry.orchestrator
async def eternal(ctx: OrchestrationContext, generation: int, last: int) -> int:
    _generations.append(perf_counter())
    if generation < last:
        ctx.continue_as_new(generation + 1, last)
    return generation


@registry.entity
class Counter:
    value: int = 0

    def add(self, amount: int) -> None:
        self.value += amount

    def read(self) -> int:
        return self.value


async def w4_children(store: Store, children: int = 100, count: int = 20) -> Result:
    """Parents that await many sub-orchestrations at once, one parent at a time."""
    async with running(store, store.fresh_url()) as (hub, backend):
        await (await hub.start(parent, children)).result()
        backend.record()
        times = []
        with measured() as span:
            for _ in range(count):
                start = perf_counter()
                await (await hub.start(parent, children)).result()
                times.append(perf_counter() - start)
        wall, _ = await floor(store, backend)
    figures = {
        "p50 ms": percentile(times, 0.5) * 1e3,
        "CPU ms each": span.cpu / count * 1e3,
        "commits each": len(backend.batches) / count,
        "x floor": span.wall / wall,
    }
    return Result(f"W4 parent with {children} children", store.name, figures)


async def w5_event(store: Store, count: int) -> Result:
    """From raising an event to the result of the instance that waits for it, one at a time."""
    async with running(store, store.fresh_url()) as (hub, _):
        times = []
        for number in range(count):
            handle = await hub.start(listener)
            await asyncio.sleep(0.002)  # it waits by now
            start = perf_counter()
            await handle.raise_event("number", number)
            assert await handle.result() == number
            times.append(perf_counter() - start)
    return Result(
        "W5 event to result",
        store.name,
        {"p50 ms": percentile(times, 0.5) * 1e3, "p95 ms": percentile(times, 0.95) * 1e3},
    )


async def w7_sleepers(store: Store, count: int, idle: float = 10.0) -> Result:
    """Many sleeping instances: what they cost while they sleep, and how long it takes until all have woken."""
    async with running(store, store.fresh_url(), cache_instances=2 * count) as (hub, _):
        await hello(hub)
        with measured() as starting:
            await _alarms(hub, count // 10, datetime.now(UTC) + timedelta(days=1))
        at = datetime.now(UTC) + timedelta(seconds=starting.wall * 15 + idle + 2)
        handles = await _alarms(hub, count, at)
        await asyncio.sleep(1.0)  # what follows from starting is over
        cpu, began = cpu_seconds(), perf_counter()
        await asyncio.sleep(idle)
        share = (cpu_seconds() - cpu) / (perf_counter() - began)
        left = (at - datetime.now(UTC)).total_seconds()
        if left < 0:
            raise RuntimeError(f"starting {count} sleepers took {-left:.1f} s too long to measure their sleep")
        await asyncio.gather(*[handle.result() for handle in handles])
        late = (datetime.now(UTC) - at).total_seconds()
    return Result(f"W7 {count} sleepers", store.name, {"idle % of a core": share * 100, "all awake after s": late})


async def _alarms(hub: TaskHub, count: int, at: datetime) -> list[InstanceHandle[None]]:
    return list(await asyncio.gather(*[hub.start(alarm, at) for _ in range(count)]))


async def w8_signals(store: Store, count: int, entities: int) -> Result:
    """Signals from a client, spread over entities; until all are applied."""
    async with running(store, store.fresh_url()) as (hub, _):
        ids = [EntityId("counter", str(number)) for number in range(entities)]
        await asyncio.gather(*[hub.signal_entity(one, "add", 0) for one in ids])
        await asyncio.gather(*[hub.call_entity(one, "read") for one in ids])
        with measured() as span:
            await asyncio.gather(*[hub.signal_entity(ids[n % entities], "add", 1) for n in range(count)])
            total = sum(await asyncio.gather(*[hub.call_entity(one, "read") for one in ids]))
    assert total == count
    figures = {"signals/s": count / span.wall, "CPU us each": span.cpu / count * 1e6}
    return Result(f"W8 {count} signals to {entities}", store.name, figures)


async def w10_eternal(store: Store, generations: int) -> Result:
    """One instance that continues as new again and again."""
    _generations.clear()
    async with running(store, store.fresh_url()) as (hub, _):
        with measured() as span:
            assert await (await hub.start(eternal, 1, generations)).result() == generations
    tenth = generations // 10
    first, last = _generations[tenth] - _generations[0], _generations[-1] - _generations[-1 - tenth]
    figures = {
        "generations/s": generations / span.wall,
        "CPU ms each": span.cpu / generations * 1e3,
        "last / first tenth": last / first,
    }
    return Result(f"W10 {generations} generations", store.name, figures)
