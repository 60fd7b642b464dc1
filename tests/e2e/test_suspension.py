"""Suspend and resume, on every store: what comes meanwhile waits, nothing runs, nothing is lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from durable import (
    InstanceHandle,
    InstanceStatus,
    OrchestrationCanceledError,
    OrchestrationContext,
    RuntimeStatus,
    TaskHub,
)
from durable.clock import system_clock
from durable.core import events as ev
from tests.e2e.histories import replay_strictly, rows_of
from tests.e2e.waiting import until

DEADLINE = 30


def is_suspended(status: InstanceStatus) -> bool:
    return status.runtime_status is RuntimeStatus.SUSPENDED


class Listener:
    """What an orchestrator hears from a timer, an activity that waits for ``gate``, and three events."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.live: list[str] = []  # what was heard, but not in replay

    def deployed(self, hub_url: str) -> TaskHub:
        hub = TaskHub(hub_url)

        @hub.activity
        async def gated() -> str:
            self.begun.set()
            await self.gate.wait()
            return "activity"

        @hub.orchestrator
        async def listener(ctx: OrchestrationContext) -> list[str]:
            heard: list[str] = []

            async def hear(future: Any, what: str | None = None) -> None:
                said = await future
                heard.append(what or said)
                if not ctx.is_replaying:
                    self.live.append(heard[-1])

            events = [hear(ctx.wait_for_external_event("x", str)) for _ in range(3)]
            await asyncio.gather(hear(asyncio.sleep(1), "timer"), hear(gated()), *events)
            return heard

        return hub

    async def suspend_and_send(self, handle: InstanceHandle[Any]) -> None:
        """Suspend the instance after one event; then come two more, the activity's outcome, and the timer's time."""
        await handle.raise_event("x", "before")
        await until(lambda: self.live, lambda seen: seen == ["before"])
        await handle.suspend("a break")
        await until(handle.status, is_suspended)
        await handle.raise_event("x", "first")
        await until(handle.history, lambda h: len(rows_of(h, ev.EventRaised)) == 2)  # its way may be the longer one
        self.gate.set()
        await until(handle.history, lambda h: rows_of(h, ev.TaskCompleted) != [])
        await handle.raise_event("x", "second")
        history = await until(handle.history, lambda h: len(rows_of(h, ev.EventRaised)) == 3)
        (timer,) = rows_of(history, ev.TimerCreated)
        await until(lambda: datetime.now(UTC).timestamp() * 1_000_000, lambda now: now > timer.fire_at + 100_000)


@pytest.mark.parametrize("restart", [False, True])
async def test_what_comes_while_suspended_waits_and_arrives_in_order(hub_url: str, restart: bool) -> None:
    parts = Listener()
    hub = parts.deployed(hub_url)
    async with hub.worker():
        handle = await hub.start("listener", instance_id="it")
        await asyncio.wait_for(parts.begun.wait(), DEADLINE)
        await parts.suspend_and_send(handle)
        assert parts.live == ["before"]
        assert is_suspended(await handle.status())
    if restart:
        hub = parts.deployed(hub_url)
    async with hub.worker():
        handle = hub.get("it")
        assert is_suspended(await handle.status())
        assert rows_of(await handle.history(), ev.TimerFired) == []
        await handle.resume("on we go")
        assert await handle.result(DEADLINE) == ["before", "first", "activity", "second", "timer"]
        history = await handle.history()
    assert [row.reason for row in rows_of(history, ev.ExecutionSuspended)] == ["a break"]
    assert [row.reason for row in rows_of(history, ev.ExecutionResumed)] == ["on we go"]
    replay_strictly(hub, history)


async def test_a_suspended_instance_with_a_timer_that_is_due_is_left_alone(hub_url: str) -> None:
    """It was woken again and again, at the price of a whole processor."""
    looks = 0

    def clock() -> int:
        nonlocal looks
        looks += 1
        return system_clock()

    hub = TaskHub(hub_url, clock=clock)

    @hub.orchestrator
    async def sleeper(ctx: OrchestrationContext, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with hub.worker():
        handle = await hub.start(sleeper, 0.5)
        await handle.suspend()
        await until(handle.status, is_suspended)
        await (await hub.start(sleeper, 0.6)).result(DEADLINE)  # by now the timer is due
        before = looks
        await (await hub.start(sleeper, 0.3)).result(DEADLINE)
        assert looks - before < 100
        await handle.resume()
        await handle.result(DEADLINE)


async def test_events_held_while_suspended_go_along_with_continue_as_new(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def adder(ctx: OrchestrationContext, total: int, left: int) -> int:
        total += await ctx.wait_for_external_event("n", int)
        if left == 1:
            return total
        ctx.continue_as_new(total, left - 1)

    async with hub.worker():
        handle = await hub.start(adder, 0, 3)
        await handle.suspend()
        for n in (1, 10, 100):
            await handle.raise_event("n", n)
        await until(handle.history, lambda h: len(rows_of(h, ev.EventRaised)) == 3)
        await handle.resume()
        assert await handle.result(DEADLINE) == 111


async def test_suspending_twice_and_resuming_what_runs_do_no_harm(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def collect(ctx: OrchestrationContext) -> list[int]:
        return [await ctx.wait_for_external_event("n", int) for _ in range(3)]

    async with hub.worker():
        handle = await hub.start(collect)
        await handle.resume("for nothing")
        await handle.raise_event("n", 1)
        await handle.suspend()
        await handle.suspend()
        await handle.raise_event("n", 2)
        await until(handle.history, lambda h: len(rows_of(h, ev.EventRaised)) == 2)
        await handle.resume()
        await until(handle.status, lambda s: s.runtime_status is RuntimeStatus.RUNNING)
        await handle.raise_event("n", 3)
        assert await handle.result(DEADLINE) == [1, 2, 3]
        replay_strictly(hub, await handle.history())


async def test_suspended_before_any_worker_saw_it(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def listener(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("x", str)

    async with hub:
        handle = await hub.start(listener)
        await handle.suspend()
        await handle.raise_event("x", "heard")
        async with hub.worker():
            await until(handle.status, is_suspended)
            await until(handle.history, lambda h: rows_of(h, ev.EventRaised) != [])
            await handle.resume()
            assert await handle.result(DEADLINE) == "heard"


async def test_a_cancellation_held_while_suspended_reaches_the_next_execution(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def again(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("n")
        ctx.continue_as_new()

    async with hub.worker():
        handle = await hub.start(again)
        await handle.suspend()
        await handle.raise_event("n")
        await handle.cancel("enough")
        await until(handle.history, lambda h: rows_of(h, ev.ExecutionCancelRequested) != [])
        await handle.resume()
        with pytest.raises(OrchestrationCanceledError):
            await handle.result(3)
