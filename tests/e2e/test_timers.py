"""Durable timers, on every store: each way to wait is recorded, survives a restart, and costs nothing meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from math import inf, nan
from typing import Any

import anyio
import pytest

from durable import OrchestrationContext, OrchestrationFailedError, RuntimeStatus, TaskHub
from durable.core import events as ev
from durable.testing.faults import FaultyBackend, Step
from durable.testing.memory import MemoryBackend
from tests.e2e.histories import given_up, kinds_of, replay_strictly, rows_of
from tests.e2e.virtual_time import in_virtual_time, virtual_hub
from tests.e2e.waiting import until

DEADLINE = 30
TEN_YEARS = timedelta(days=3652)


def ways_to_wait(hub: TaskHub) -> list[Any]:
    """An orchestrator for each way to set a timer; each takes seconds and returns whether it waited that long."""

    @hub.activity
    async def endless() -> None:
        await asyncio.Event().wait()

    async def sleep(ctx: OrchestrationContext, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def timer_for(ctx: OrchestrationContext, seconds: float) -> None:
        await ctx.create_timer(timedelta(seconds=seconds))

    async def timer_at(ctx: OrchestrationContext, seconds: float) -> None:
        await ctx.create_timer(ctx.now + timedelta(seconds=seconds))

    async def timeout(ctx: OrchestrationContext, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await endless()

    async def timeout_at(ctx: OrchestrationContext, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds):
                await ctx.wait_for_external_event("never")

    async def wait_for(ctx: OrchestrationContext, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endless(), seconds)

    async def call_later(ctx: OrchestrationContext, seconds: float) -> None:
        rang = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, rang.set)
        await rang.wait()

    async def move_on_after(ctx: OrchestrationContext, seconds: float) -> None:
        with anyio.move_on_after(seconds) as scope:
            await endless()
        assert scope.cancelled_caught

    async def fail_after(ctx: OrchestrationContext, seconds: float) -> None:
        with pytest.raises(TimeoutError), anyio.fail_after(seconds):
            await endless()

    def measured(wait: Any) -> Any:
        async def orchestrator(ctx: OrchestrationContext, seconds: float) -> bool:
            began = ctx.now
            await wait(ctx, seconds)
            return ctx.now - began >= timedelta(seconds=seconds)

        return hub.orchestrator(name=wait.__name__)(orchestrator)

    ways = (sleep, timer_for, timer_at, timeout, timeout_at, wait_for, call_later, move_on_after, fail_after)
    return [measured(way) for way in ways]


async def test_each_way_to_wait_is_durable_and_survives_a_restart(hub_url: str) -> None:
    seconds = 0.5
    names = []
    hub = TaskHub(hub_url)
    async with hub.worker(drain_time=0.05):
        for way in ways_to_wait(hub):
            names.append(way.name)
            await hub.start(way, seconds, instance_id=way.name)
        for name in names:
            await until(hub.get(name).history, lambda h: rows_of(h, ev.TimerCreated) != [])
    hub = TaskHub(hub_url)
    ways_to_wait(hub)
    async with hub.worker(drain_time=0.05):
        waited = {name: await hub.get(name).result(DEADLINE) for name in names}
        histories = {name: await hub.get(name).history() for name in names}
    assert waited == dict.fromkeys(names, True)
    for history in histories.values():
        (created,), (fired,) = rows_of(history, ev.TimerCreated), rows_of(history, ev.TimerFired)
        assert (fired.task_id, fired.fire_at) == (created.task_id, created.fire_at)
        assert 500_000 <= created.fire_at - created.timestamp <= 500_001
        assert fired.timestamp >= fired.fire_at
        replay_strictly(hub, history)


async def test_a_time_that_has_passed_is_at_once_and_leaves_no_trace(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    ran: list[int] = []

    @hub.activity
    async def too_late() -> None:
        ran.append(1)

    @hub.orchestrator
    async def past(ctx: OrchestrationContext) -> str:
        await ctx.create_timer(datetime(1999, 12, 31, tzinfo=UTC))
        await ctx.create_timer(ctx.now)
        await ctx.create_timer(timedelta(seconds=-5))
        await asyncio.sleep(-1)
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(-1):
                await too_late()
        except TimeoutError:
            return "at once"
        return "not reached"

    async with hub.worker():
        handle = await hub.start(past)
        assert await handle.result(DEADLINE) == "at once"
        history = await handle.history()
    assert kinds_of(history) == ["ExecutionStarted", "TaskScheduled", "TaskCancelRequested", "ExecutionCompleted"]
    assert ran == []


@pytest.mark.parametrize("seconds", [TEN_YEARS.total_seconds(), inf])
async def test_a_timer_of_ten_years_or_for_ever_is_one_row(hub_url: str, seconds: float) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def patient(ctx: OrchestrationContext, seconds: float | None) -> None:
        await asyncio.sleep(inf if seconds is None else seconds)

    async with hub:
        async with hub.worker():
            handle = await hub.start(patient, None if seconds == inf else seconds)
        async with hub.worker():
            history = await handle.history()
            assert (await handle.status()).runtime_status is RuntimeStatus.RUNNING
            assert kinds_of(history) == ["ExecutionStarted", "TimerCreated"]
            (created,) = rows_of(history, ev.TimerCreated)
            assert created.fire_at - created.timestamp >= TEN_YEARS // timedelta(microseconds=1)
            await handle.cancel()
            await until(handle.status, lambda s: s.runtime_status is RuntimeStatus.CANCELED)


async def test_a_cancelled_timer_never_wakes_the_instance(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    seconds = 1.0

    @hub.orchestrator
    async def changes_its_mind(ctx: OrchestrationContext) -> None:
        at_once = ctx.create_timer(timedelta(seconds=seconds))
        at_once.cancel()  # in the turn that set it: no trace
        timer = ctx.create_timer(timedelta(seconds=seconds))
        await ctx.wait_for_external_event("cancel")
        timer.cancel()
        await ctx.wait_for_external_event("end")
        assert timer.cancelled()

    @hub.orchestrator
    async def sleeper(ctx: OrchestrationContext) -> None:
        await asyncio.sleep(seconds)

    async with hub.worker():
        handle = await hub.start(changes_its_mind)
        await handle.raise_event("cancel")
        later = await hub.start(sleeper)  # its timer is due after the cancelled one's time
        await later.result(DEADLINE)
        history = await handle.history()
        await handle.raise_event("end")
        await handle.result(DEADLINE)
    assert kinds_of(history) == ["ExecutionStarted", "TimerCreated", "EventRaised", "TaskCancelRequested"]
    assert given_up(history) == ["TimerCreated"]


async def test_times_that_cannot_be_are_errors_where_they_are_given(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def careless(ctx: OrchestrationContext) -> list[str]:
        heard = []
        try:
            await ctx.create_timer(datetime(2099, 1, 1))  # noqa: DTZ001 - the mistake
        except ValueError as error:
            heard.append(str(error))
        try:
            asyncio.get_running_loop().call_later(nan, heard.clear)
        except ValueError as error:
            heard.append(str(error))
        return heard

    @hub.orchestrator
    async def lets_through(ctx: OrchestrationContext) -> None:
        await asyncio.sleep(nan)

    async with hub.worker():
        naive, not_a_number = await (await hub.start(careless)).result(DEADLINE)
        with pytest.raises(OrchestrationFailedError) as caught:
            await (await hub.start(lets_through)).result(DEADLINE)
    assert "has no time zone" in naive
    assert "not NaN" in not_a_number
    assert caught.value.details.is_caused_by(ValueError)


async def test_a_time_is_the_same_in_every_time_zone(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    eastern = timezone(timedelta(hours=-5))

    @hub.orchestrator
    async def traveller(ctx: OrchestrationContext, at: datetime) -> bool:
        await ctx.create_timer(at)
        return ctx.now >= at

    async with hub.worker():
        at = datetime.now(UTC) + timedelta(seconds=0.3)
        handle = await hub.start(traveller, at.astimezone(eastern))
        assert await handle.result(DEADLINE) is True
        (created,) = rows_of(await handle.history(), ev.TimerCreated)
    expected = round(at.timestamp() * 1_000_000)
    assert 0 <= created.fire_at - expected <= 1  # microseconds; a float of seconds may round up


async def test_timers_that_came_due_while_no_worker_ran_fire_in_order(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def several(ctx: OrchestrationContext) -> list[float]:
        rang: list[float] = []

        async def ring(seconds: float) -> None:
            await asyncio.sleep(seconds)
            rang.append(seconds)

        await asyncio.gather(*[ring(seconds) for seconds in (0.4, 0.3, 0.35, 0.45)])
        return rang

    async with hub:
        async with hub.worker():
            handle = await hub.start(several)
        (*_, last) = sorted(row.fire_at for row in rows_of(await handle.history(), ev.TimerCreated))
        await until(lambda: datetime.now(UTC).timestamp() * 1_000_000, lambda now: now > last)
        async with hub.worker():
            assert await handle.result(DEADLINE) == [0.3, 0.35, 0.4, 0.45]
            replay_strictly(hub, await handle.history())


@pytest.mark.parametrize("cache_instances", [10_000, 5])
@pytest.mark.parametrize("seconds", [59.0, 70.0, 95.0, 3600.25])
def test_timers_fire_on_time_near_and_far_in_memory_and_evicted(seconds: float, cache_instances: int) -> None:
    async def main() -> list[timedelta]:
        hub = virtual_hub(MemoryBackend(), cache_instances=cache_instances)

        @hub.orchestrator
        async def sleeper(ctx: OrchestrationContext) -> timedelta:
            began = ctx.now
            await asyncio.sleep(seconds)
            return ctx.now - began

        async with hub.worker():
            handles = [await hub.start(sleeper) for _ in range(20)]
            return [await handle.result() for handle in handles]

    assert max(in_virtual_time(main)) <= timedelta(seconds=seconds + 0.01)


def test_five_thousand_sleepers_cost_no_polling_and_all_wake() -> None:
    def operations_of(sleepers: int) -> tuple[Counter[str], int]:
        async def main() -> tuple[Counter[str], int]:
            counts: Counter[str] = Counter()

            def count(operation: str) -> Step:
                counts[operation] += 1
                return Step()

            hub = virtual_hub(FaultyBackend(MemoryBackend(), count))

            @hub.orchestrator
            async def sleeper(ctx: OrchestrationContext, until: datetime) -> int:
                await ctx.create_timer(until)
                return 1

            @hub.orchestrator
            async def now(ctx: OrchestrationContext) -> datetime:
                return ctx.now

            async with hub.worker():
                began = await (await hub.start(now)).result()
                handles = [await hub.start(sleeper, began + timedelta(hours=1)) for _ in range(sleepers)]
                await asyncio.sleep(30)
                before = counts.copy()
                await asyncio.sleep(45 * 60)
                idle = counts - before
                del idle["expired"]  # retention's look, at intervals of chance
                return idle, sum([await handle.result() for handle in handles])

        return in_virtual_time(main)

    idle_with_one, _ = operations_of(1)
    idle_with_many, woken = operations_of(5_000)
    assert woken == 5_000
    assert idle_with_many == idle_with_one
    assert set(idle_with_one) == {"heartbeat", "runnable"}  # the worker's own
