"""The workloads of instances that wait for others: children (W4), events (W5), timers (W7), entities (W8),
generations (W10)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import perf_counter

from durable.bench.measuring import Result, measured, percentile
from durable.bench.running import running
from durable.bench.stores import Store
from durable.bench.workloads import expect, hello, registry
from durable.core.context import OrchestrationContext
from durable.core.ids import EntityId
from durable.handle import InstanceHandle
from durable.hub import TaskHub

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


async def w4_children(store: Store, children: int, count: int) -> Result:
    """Parents that await many sub-orchestrations at once, one parent at a time."""
    times = []
    async with running(store, registry) as run:
        await (await run.hub.start(parent, children)).result()
        with run.measured():
            for _ in range(count):
                start = perf_counter()
                expect(await (await run.hub.start(parent, children)).result(), sum(range(children)))
                times.append(perf_counter() - start)
    figures = {"p50 ms": percentile(times, 0.5) * 1e3} | await run.costs(count)
    return Result(f"parent with {children} children", "parent", figures)


async def w5_event(store: Store, count: int) -> Result:
    """From raising an event to the result of the instance that waits for it, one at a time."""
    times = []
    async with running(store, registry) as run:
        # Their first turn is committed with their creation, so they wait when `start` returns.
        handles = await asyncio.gather(*[run.hub.start(listener) for _ in range(count)])
        with run.measured():
            for number, handle in enumerate(handles):
                start = perf_counter()
                await handle.raise_event("number", number)
                expect(await handle.result(), number)
                times.append(perf_counter() - start)
    figures = {"p50 ms": percentile(times, 0.5) * 1e3, "p95 ms": percentile(times, 0.95) * 1e3}
    return Result("event to result", "event", figures | await run.costs(count))


async def w7_sleepers(store: Store, count: int, idle: float) -> Result:
    """Many sleeping instances: what they cost while they sleep, and how long it takes until all have woken."""
    async with running(store, registry, cache_instances=2 * count) as run:
        await hello(run.hub)
        with measured() as starting:
            await _alarms(run.hub, count // 10, datetime.now(UTC) + timedelta(days=1))
        at = datetime.now(UTC) + timedelta(seconds=starting.wall * 30 + idle + 3)
        handles = await _alarms(run.hub, count, at)
        await asyncio.sleep(1.0)  # what follows from starting is over
        with measured() as sleeping:
            await asyncio.sleep(idle)
        left = (at - datetime.now(UTC)).total_seconds()
        if left < 0.5:
            raise RuntimeError(f"starting {count} sleepers took {0.5 - left:.1f} s too long to measure their sleep")
        await asyncio.sleep(left - 0.5)
        with run.measured() as span:
            await asyncio.gather(*[handle.result() for handle in handles])
        span.wall = late = (datetime.now(UTC) - at).total_seconds()  # the block began before they were due
    figures = {"idle % of a core": sleeping.cpu / sleeping.wall * 100, "all awake after s": late}
    return Result(f"{count} sleepers wake", "sleeper", figures | await run.costs(count))


async def _alarms(hub: TaskHub, count: int, at: datetime) -> list[InstanceHandle[None]]:
    return list(await asyncio.gather(*[hub.start(alarm, at) for _ in range(count)]))


async def w8_signals(store: Store, count: int, entities: int) -> Result:
    """Signals from a client, spread over entities; until all are applied."""
    async with running(store, registry) as run:
        hub, ids = run.hub, [EntityId("counter", str(number)) for number in range(entities)]
        await asyncio.gather(*[hub.signal_entity(one, "add", 0) for one in ids])
        await asyncio.gather(*[hub.call_entity(one, "read") for one in ids])
        with run.measured() as span:
            await asyncio.gather(*[hub.signal_entity(ids[n % entities], "add", 1) for n in range(count)])
            each = count // entities
            for some in (ids[-1:], ids):  # to look at all of them takes time from what is waited for
                while await _total(hub, some) < each * len(some):
                    await asyncio.sleep(0.002)
        expect(sum(await asyncio.gather(*[hub.call_entity(one, "read") for one in ids])), count)
    figures = {"signals/s": count / span.wall} | await run.costs(count)
    return Result(f"{count} signals to {entities} {'entity' if entities == 1 else 'entities'}", "signal", figures)


async def _total(hub: TaskHub, ids: Sequence[EntityId]) -> int:
    """What the counters come to as committed: a look, where a call would be an orchestration for each."""
    states = await asyncio.gather(*[hub.read_entity(one) for one in ids])
    return sum(found.state.value for found in states if found is not None)


async def w10_eternal(store: Store, generations: int) -> Result:
    """One instance that continues as new again and again."""
    _generations.clear()
    async with running(store, registry) as run:
        with run.measured() as span:
            expect(await (await run.hub.start(eternal, 1, generations)).result(), generations)
    tenth = generations // 10
    first, last = _generations[tenth] - _generations[0], _generations[-1] - _generations[-1 - tenth]
    figures = {"generations/s": generations / span.wall, "last tenth / first": last / first}
    return Result(f"{generations} generations", "generation", figures | await run.costs(generations))
