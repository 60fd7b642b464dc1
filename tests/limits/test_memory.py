"""What is in memory: idle instances up to the settings, and of timers one wake-up for each instance."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from durable import OrchestrationContext, Registry, Settings, TaskHub
from durable.core import events as ev
from tests.e2e.histories import rows_of
from tests.e2e.waiting import until

DEADLINE = 60
TIMERS = 20_000

registry = Registry()


@registry.orchestrator
async def waits(ctx: OrchestrationContext, text: str) -> int:
    await ctx.wait_for_external_event("go")
    return len(text)


@registry.orchestrator
async def sets_timers(ctx: OrchestrationContext, count: int, spread: int, seconds: float) -> int:
    """Sets timers that are due at ``spread`` different times; returns how many fired, no earlier than they are due."""
    began = ctx.now
    in_time = 0
    for number in range(count):
        wait = timedelta(seconds=1 + seconds * (number % spread) / spread)

        def fired(_: asyncio.Future[None], wait: timedelta = wait) -> None:
            nonlocal in_time
            in_time += ctx.now - began >= wait

        ctx.create_timer(wait).add_done_callback(fired)
    await ctx.create_timer(timedelta(seconds=1 + seconds))
    return in_time


def make_hub(hub_url: str, **settings: int) -> TaskHub:
    hub = TaskHub(hub_url, settings=Settings(**settings))  # type: ignore[arg-type]
    hub.include(registry)
    return hub


@pytest.mark.parametrize(
    ("settings", "text", "at_most"),
    [({"cache_instances": 5}, "", 5), ({"cache_bytes": 300_000}, "x" * 100_000, 2)],
    ids=["cache_instances", "cache_bytes"],
)
async def test_idle_instances_beyond_the_cache_leave_memory_and_come_back(
    hub_url: str, settings: dict[str, int], text: str, at_most: int
) -> None:
    hub = make_hub(hub_url, **settings)
    async with hub.worker():
        assert hub._worker is not None
        instances = hub._worker._instances
        handles = [await hub.start(waits, text) for _ in range(30)]
        for handle in handles:
            await handle.wait_for_start(DEADLINE)
        await until(lambda: len(instances), lambda count: count <= at_most)
        for handle in handles:
            await handle.raise_event("go")
        assert [await handle.result(DEADLINE) for handle in handles] == [len(text)] * 30


async def test_many_timers_of_one_instance_fire(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(sets_timers, TIMERS, 20, 1.0)
        assert await handle.result(DEADLINE) == TIMERS
        history = await handle.history()
    assert len(rows_of(history, ev.TimerCreated)) == TIMERS + 1


async def test_many_timers_survive_the_worker(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(sets_timers, TIMERS, 20, 3.0)
        await until(handle.history, lambda history: len(rows_of(history, ev.TimerCreated)) == TIMERS + 1)
    async with hub.worker():
        assert await hub.get(handle.instance_id).result(DEADLINE) == TIMERS
