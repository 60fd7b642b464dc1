"""Cancellation, on every store: of single calls, of task groups, of instances. It is cooperative, and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityFailedError,
    InstanceFinishedError,
    InstanceNotFoundError,
    OrchestrationCanceledError,
    OrchestrationContext,
    OrchestrationTerminatedError,
    RuntimeStatus,
    Saga,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.histories import given_up, kinds_of, replay_strictly, rows_of
from tests.e2e.waiting import until

DEADLINE = 30


class Parts:
    """A hub with an activity and a child that never end, and an activity that notes what it is given."""

    def __init__(self, hub_url: str, log: list[str] | None = None) -> None:
        self.hub = hub = TaskHub(hub_url)
        self.log: list[str] = [] if log is None else log

        @hub.activity
        async def endless() -> None:
            self.log.append("activity runs")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.log.append("activity cancelled")
                raise

        @hub.activity
        async def note(what: str) -> str:
            self.log.append(what)
            return what

        @hub.orchestrator
        async def child(ctx: OrchestrationContext) -> None:
            try:
                await ctx.wait_for_external_event("never")
            except asyncio.CancelledError:
                await note("child cleans up")
                raise

        self.endless, self.note, self.child = endless, note, child

    def waits(self, ctx: OrchestrationContext) -> dict[str, Callable[[], Any]]:
        """What a task can wait for, for ever."""
        return {
            "activity": self.endless,
            "child": self.child.options(instance_id="the-child"),
            "timer": lambda: asyncio.sleep(3600),
            "event": lambda: ctx.wait_for_external_event("x"),
            "group": lambda: asyncio.gather(self.endless(), asyncio.sleep(3600)),
        }


async def is_at_rest(parts: Parts, kind: str) -> None:
    """Wait until what was called runs."""
    if kind in ("activity", "group"):
        await until(lambda: parts.log, lambda seen: "activity runs" in seen)
    if kind == "child":
        await until(parts.hub.get("the-child").status, lambda s: s.runtime_status is RuntimeStatus.RUNNING)


async def cancelled_by(handle: Any, reason: str | None) -> None:
    with pytest.raises(OrchestrationCanceledError) as caught:
        await handle.result(DEADLINE)
    assert caught.value.reason == reason
    assert (await handle.status()).runtime_status is RuntimeStatus.CANCELED


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("activity", ["TaskScheduled"]),
        ("child", ["SubOrchestrationInstanceCreated"]),
        ("timer", ["TimerCreated"]),
        ("event", []),
        ("group", ["TaskScheduled", "TimerCreated"]),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
async def test_cancelling_a_task_reaches_what_it_awaits(
    hub_url: str, kind: str, expected: list[str], wrapped: bool
) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def canceller(ctx: OrchestrationContext, kind: str, wrapped: bool) -> list[str]:
        async def in_task() -> None:
            await parts.waits(ctx)[kind]()

        task = asyncio.ensure_future(in_task() if wrapped else parts.waits(ctx)[kind]())
        await ctx.wait_for_external_event("cancel")
        assert task.cancel("no need")
        try:
            await task
        except asyncio.CancelledError as error:
            return [str(error), await ctx.wait_for_external_event("x", str)]
        return ["not reached"]

    async with parts.hub.worker():
        handle = await parts.hub.start(canceller, kind, wrapped)
        await is_at_rest(parts, kind)
        await handle.raise_event("cancel")
        await handle.raise_event("x", "whoever was cancelled takes nothing")
        assert await handle.result(DEADLINE) == ["no need", "whoever was cancelled takes nothing"]
        history = await handle.history()
        if kind in ("activity", "group"):
            await until(lambda: parts.log, lambda seen: "activity cancelled" in seen)
        if kind == "child":
            await cancelled_by(parts.hub.get("the-child"), "the parent orchestration no longer waits for it")
            assert parts.log == ["child cleans up"]
    assert given_up(history) == expected
    outcomes = {"TaskCompleted", "TaskFailed", "TimerFired", "SubOrchestrationInstanceFailed"}
    assert not outcomes.intersection(kinds_of(history))
    replay_strictly(parts.hub, history)


async def test_a_task_group_cancels_siblings_in_one_order(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.activity
    async def boom() -> None:
        raise RuntimeError("boom")

    @parts.hub.orchestrator
    async def grouped(ctx: OrchestrationContext) -> str:
        async def nested() -> None:
            async with asyncio.TaskGroup() as inner:
                for _ in range(3):
                    inner.create_task(parts.endless())
                    inner.create_task(asyncio.sleep(3600))

        try:
            async with asyncio.TaskGroup() as group:
                for n in range(3):
                    group.create_task(asyncio.sleep(3600 + n))
                    group.create_task(parts.endless())
                    group.create_task(parts.child())
                    group.create_task(nested())
                group.create_task(boom())
        except* ActivityFailedError as failures:
            ctx.set_custom_status([type(error).__name__ for error in failures.exceptions])
        return "cancelled"

    async with parts.hub.worker():
        handles = [await parts.hub.start(grouped) for _ in range(20)]
        seen = set()
        for handle in handles:
            assert await handle.result(DEADLINE) == "cancelled"
            history = await handle.history()
            seen.add(tuple((type(row).__name__, getattr(row, "task_id", None)) for row in history))
            assert len(given_up(history)) == 9 + 3 * 6
        assert (await handles[0].status()).custom_status == ["ActivityFailedError"]
        replay_strictly(parts.hub, history)
        async for instance in parts.hub.query(name="child"):
            await cancelled_by(parts.hub.get(instance.instance_id), "the parent orchestration no longer waits for it")
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["activity", "child", "timer", "event", "group"])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_cancelled_instance_cleans_up_with_activities(hub_url: str, kind: str, restart: bool) -> None:
    def deployed(log: list[str]) -> Parts:
        parts = Parts(hub_url, log)

        @parts.hub.orchestrator
        async def cancellable(ctx: OrchestrationContext, kind: str) -> None:
            try:
                await parts.waits(ctx)[kind]()
            finally:
                await parts.note("first")
                await asyncio.sleep(0.05)
                await parts.note("second")

        return parts

    log: list[str] = []
    parts = deployed(log)
    async with parts.hub.worker(drain_time=0.05):
        handle = await parts.hub.start("cancellable", kind, instance_id="it")
        await is_at_rest(parts, kind)
        await handle.cancel("lunch")
        if not restart:
            await cancelled_by(handle, "lunch")
    if restart:
        parts = deployed(log)
        async with parts.hub.worker():
            await cancelled_by(parts.hub.get("it"), "lunch")
    async with parts.hub.worker():
        history = await parts.hub.get("it").history()
        if kind == "child":
            await until(parts.hub.get("the-child").status, lambda s: s.runtime_status is RuntimeStatus.CANCELED)
    assert [what for what in log if what in ("first", "second")] == ["first", "second"]
    assert len(rows_of(history, ev.ExecutionCancelRequested)) == 1
    replay_strictly(parts.hub, history)


async def test_an_orchestrator_may_decline_to_be_cancelled(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def stubborn(ctx: OrchestrationContext) -> str:
        try:
            await ctx.wait_for_external_event("never")
        except asyncio.CancelledError as error:
            return await parts.note(f"carried on despite {error}")
        return "not reached"

    async with parts.hub.worker():
        handle = await parts.hub.start(stubborn)
        await handle.cancel("rain")
        assert await handle.result(DEADLINE) == "carried on despite rain"
        assert (await handle.status()).runtime_status is RuntimeStatus.COMPLETED


async def test_children_that_nobody_awaits_follow_their_policy(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> None:
        for policy in ("terminate", "cancel", "abandon"):
            ctx.call_sub_orchestrator(parts.child.options(instance_id=policy, parent_close=policy))
        await parts.child.options(instance_id="awaited")()

    async with parts.hub.worker():
        handle = await parts.hub.start(parent)
        await until(parts.hub.get("awaited").status, lambda s: s.runtime_status is RuntimeStatus.RUNNING)
        await handle.cancel()
        await cancelled_by(handle, None)
        expected = {
            "terminate": RuntimeStatus.TERMINATED,
            "cancel": RuntimeStatus.CANCELED,
            "awaited": RuntimeStatus.CANCELED,  # its call was cancelled, before its parent ended
        }
        for name, status in expected.items():
            await until(parts.hub.get(name).status, lambda s, status=status: s.runtime_status is status)  # type: ignore[misc]
        assert (await parts.hub.get("abandon").status()).runtime_status is RuntimeStatus.RUNNING


async def test_a_second_cancellation_cuts_the_cleaning_up_off(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def slow_to_end(ctx: OrchestrationContext) -> None:
        try:
            await ctx.wait_for_external_event("never")
        finally:
            await parts.endless()

    async with parts.hub.worker():
        handle = await parts.hub.start(slow_to_end)
        await handle.cancel("once")
        await until(lambda: parts.log, lambda seen: seen == ["activity runs"])
        await handle.cancel("twice")
        await cancelled_by(handle, "twice")
        await until(lambda: parts.log, lambda seen: seen == ["activity runs", "activity cancelled"])
        history = await handle.history()
    assert [row.reason for row in rows_of(history, ev.ExecutionCancelRequested)] == ["once", "twice"]


async def test_before_the_first_turn(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def early(ctx: OrchestrationContext) -> None:
        try:
            await parts.endless()
        finally:
            await parts.note("cleaned up")

    async with parts.hub:
        handle = await parts.hub.start(early)
        await handle.cancel("too soon")
        assert (await handle.status()).runtime_status is RuntimeStatus.PENDING
        async with parts.hub.worker():
            await cancelled_by(handle, "too soon")
            history = await handle.history()
    assert kinds_of(history)[:2] == ["ExecutionStarted", "ExecutionCancelRequested"]
    assert given_up(history) == ["TaskScheduled"]
    assert parts.log == ["cleaned up"]  # the activity that was given up in its own turn never ran


async def test_a_deadline_of_the_orchestrators_own_is_no_cancellation(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def deadline(ctx: OrchestrationContext) -> list[str]:
        heard = []
        try:
            async with asyncio.timeout(3600):
                await ctx.wait_for_external_event("never")
        except asyncio.CancelledError as error:
            heard.append(f"from outside: {error}")
        try:
            async with asyncio.timeout(0.02):
                await parts.endless()
        except TimeoutError:
            heard.append("timed out")
        return heard

    async with parts.hub.worker():
        handle = await parts.hub.start(deadline)
        await handle.cancel("now")
        assert await handle.result(DEADLINE) == ["from outside: now", "timed out"]
        replay_strictly(parts.hub, await handle.history())


async def test_a_suspended_instance_is_cancelled_when_it_is_resumed(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def waits(ctx: OrchestrationContext) -> None:
        try:
            await ctx.create_timer(timedelta(hours=1))
        finally:
            await parts.note("cleaned up")

    async with parts.hub.worker():
        handle = await parts.hub.start(waits)
        await handle.suspend()
        await handle.cancel("later")
        await until(handle.history, lambda h: rows_of(h, ev.ExecutionCancelRequested) != [])
        assert (await handle.status()).runtime_status is RuntimeStatus.SUSPENDED
        assert parts.log == []
        await handle.resume()
        await cancelled_by(handle, "later")
    assert parts.log == ["cleaned up"]


async def test_who_cannot_be_cancelled_says_so(hub_url: str) -> None:
    parts = Parts(hub_url)

    @parts.hub.orchestrator
    async def short(ctx: OrchestrationContext) -> None:
        return None

    async with parts.hub.worker():
        handle = await parts.hub.start(short)
        await handle.result(DEADLINE)
        with pytest.raises(InstanceFinishedError, match="Completed"):
            await handle.cancel()
        with pytest.raises(InstanceNotFoundError, match="nobody"):
            await parts.hub.get("nobody").cancel()


async def test_terminating_with_compensation_runs_the_undos(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    undone: list[str] = []

    @hub.activity
    async def undo(what: str) -> None:
        undone.append(what)

    @hub.orchestrator
    async def booking(ctx: OrchestrationContext) -> str:
        async with Saga() as saga:
            saga.add(undo, "hotel")
            saga.add(undo, "flight")
            ctx.set_custom_status("booked")
            await ctx.wait_for_external_event("paid")
        return "not reached"

    async with hub:
        async with hub.worker():
            handle = await hub.start(booking)
            await until(handle.status, lambda status: status.custom_status == "booked")
        await handle.terminate({"why": "no money"}, compensate=True)
        async with hub.worker():
            with pytest.raises(OrchestrationTerminatedError, match="no money"):
                await handle.result(DEADLINE)
            assert (await handle.status()).output == {"why": "no money"}
    assert undone == ["flight", "hotel"]
