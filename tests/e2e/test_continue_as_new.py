"""Instances that go on as new ones: the same id, an empty history."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from durable import (
    ActivityContext,
    InstanceNotFoundError,
    InstanceStatus,
    OrchestrationContext,
    RuntimeStatus,
    Saga,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30


async def test_a_new_execution_with_new_arguments(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def increment(n: int) -> int:
        return n + 1

    @hub.orchestrator
    async def counting(ctx: OrchestrationContext, n: int, seen: list[str]) -> list[str]:
        seen = [*seen, ctx.execution_id]
        n = await increment(n)
        if n < 5:
            ctx.continue_as_new(n, seen=seen)
        return seen

    async with hub.worker():
        handle = await hub.start(counting, 0, [])
        executions = await handle.result(DEADLINE)
        assert len(set(executions)) == 5
        status = await handle.status()
        assert status.execution_id == executions[-1]
        assert status.input == {"args": [4], "kwargs": {"seen": executions[:-1]}}
        history = await handle.history()
        assert [type(event).__name__ for event in history[:3]] == [
            "ExecutionStarted",
            "OrchestratorStarted",
            "TaskScheduled",
        ]
        assert len(history) == 8


def counting_hub(hub_url: str) -> TaskHub:
    """A hub whose orchestrator ``counting`` notes each number, up to 13, in an execution of its own."""
    hub = TaskHub(hub_url)

    @hub.activity
    async def note(n: int) -> str:
        return f"note {n}"

    @hub.orchestrator
    async def counting(ctx: OrchestrationContext, n: int) -> int:
        await note(n)
        if n < 13:
            ctx.continue_as_new(n + 1)
        return n

    return hub


async def test_former_executions_can_be_read_as_long_as_they_are_kept(hub_url: str) -> None:
    hub = counting_hub(hub_url)
    async with hub.worker(keep_executions=2):
        handle = await hub.start("counting", 0)
        assert await handle.result(DEADLINE) == 13
        current, *former = await handle.executions()
        assert current == (await handle.status()).execution_id
        assert len(former) == 2
        for n, execution_id in zip((13, 12, 11), [current, *former], strict=True):
            history = await handle.history(execution_id=execution_id)
            assert [event.result for event in history if isinstance(event, ev.TaskCompleted)] == [f'"note {n}"']
        assert await handle.history(execution_id=current) == await handle.history()
        fresh = await hub.start("counting", 13)
        await fresh.result(DEADLINE)
        assert await fresh.executions() == [(await fresh.status()).execution_id]


async def test_an_execution_that_is_not_there_is_not_found(hub_url: str) -> None:
    hub = counting_hub(hub_url)
    async with hub.worker(keep_executions=2):
        handle = await hub.start("counting", 0)
        await handle.result(DEADLINE)
        current, *former = await handle.executions()
        start = current.partition(".")[0]
        numbers = ["", "0", "10", "14", "011", "x", "11.11", "11/00000000", "\u0661\u0661"]
        for unknown in ["", "other", "other.11", start, *[f"{start}.{number}" for number in numbers]]:
            with pytest.raises(InstanceNotFoundError, match=re.escape(f"{unknown!r}: it never")) as caught:
                await handle.history(execution_id=unknown)
            assert str(caught.value).endswith(f"It has {', '.join([current, *former])}")
        for look in (hub.get("nobody").executions, hub.get("nobody").history):
            with pytest.raises(InstanceNotFoundError, match="nobody"):
                await look()


async def test_events_that_nobody_waited_for_go_along(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def one_each(ctx: OrchestrationContext, heard: list[Any], keep: bool = True) -> list[Any]:
        heard = [*heard, await ctx.wait_for_external_event("n")]
        if heard[-1] == "end":
            return heard
        ctx.continue_as_new(heard, keep_events=keep)

    async with hub:
        handle = await hub.start(one_each, [])
        for n in range(20):
            await handle.raise_event("n", n)
        await handle.raise_event("n", "end")
        async with hub.worker():
            assert await handle.result(DEADLINE) == [*range(20), "end"]


async def test_events_that_were_received_can_be_dropped(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def dropping(ctx: OrchestrationContext, again: bool = False) -> Any:
        if not again:
            await ctx.wait_for_external_event("go")
            ctx.continue_as_new(True, keep_events=False)
        return await ctx.wait_for_external_event("n")

    async with hub.worker():
        handle = await hub.start(dropping)
        for n in range(5):
            await handle.raise_event("n", n)
        await handle.raise_event("go")
        await until(handle.status, lambda s: s.execution_id.endswith(".1"))
        await handle.raise_event("n", "new")
        assert await handle.result(DEADLINE) == "new"


async def test_from_within_nested_calls_and_tasks(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def note(n: int) -> int:
        return n

    @hub.orchestrator
    async def nested(ctx: OrchestrationContext, n: int = 0) -> int:
        async def deeper() -> None:
            try:
                await note(n)
                ctx.continue_as_new(n + 1)
            except Exception:
                raise AssertionError("not reached") from None

        if n == 0:
            await deeper()
        if n == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(deeper())
                group.create_task(asyncio.sleep(3600))
        if n == 2:
            task = asyncio.create_task(deeper())
            try:
                await asyncio.sleep(3600)
            finally:
                await note(99)
            await task
        return n

    async with hub.worker():
        handle = await hub.start(nested)
        assert await handle.result(DEADLINE) == 3


async def test_what_is_outstanding_ends(hub_url: str) -> None:
    """As when the orchestrator returns: activities and timers are cancelled, children follow their close policy."""
    hub = TaskHub(hub_url)
    ended = asyncio.Event()

    @hub.activity
    async def endless() -> None:
        await hub.get(ActivityContext.current().instance_id).raise_event("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @hub.orchestrator
    async def waiting(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("never")

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext, again: bool = True) -> str:
        if not again:
            return "done"
        ctx.call_activity(endless)
        ctx.create_timer(timedelta(hours=1))
        ctx.call_sub_orchestrator(waiting.options(instance_id="closed"))
        ctx.call_sub_orchestrator(waiting.options(instance_id="left", parent_close="abandon"))
        await ctx.wait_for_external_event("begun")
        ctx.continue_as_new(False)

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == "done"
        async with asyncio.timeout(DEADLINE):
            await ended.wait()
        await until(hub.get("closed").status, lambda s: s.runtime_status is RuntimeStatus.TERMINATED)
        assert (await hub.get("left").status()).runtime_status is RuntimeStatus.RUNNING


async def test_a_saga_is_not_undone(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    undone: list[int] = []

    @hub.activity
    async def undo(n: int) -> None:
        undone.append(n)

    @hub.orchestrator
    async def booking(ctx: OrchestrationContext, n: int = 0) -> str:
        async with Saga() as saga:
            saga.add(undo, n)
            if n == 0:
                ctx.continue_as_new(1)
        return "kept"

    async with hub.worker():
        handle = await hub.start(booking)
        assert await handle.result(DEADLINE) == "kept"
    assert undone == []


async def test_a_child_that_continues_as_new_answers_its_parent(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def child(ctx: OrchestrationContext, n: int) -> int:
        if n:
            ctx.continue_as_new(n - 1)
        return 42

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> int:
        return await child(3)

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == 42


async def test_an_answer_to_a_former_execution_is_dropped(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return str(await ctx.wait_for_external_event("go"))

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext, n: int = 0) -> str:
        call = ctx.call_sub_orchestrator(child.options(instance_id=f"child-{n}", parent_close="abandon"))
        if n == 0:
            await ctx.wait_for_external_event("next")
            ctx.continue_as_new(1)
        return await call

    async with hub.worker():
        handle = await hub.start(parent)
        await handle.raise_event("next")
        await until(lambda: hub.query(id_prefix="child-"), lambda found: len(found) == 2)
        await hub.get("child-0").raise_event("go", "stale")
        assert await hub.get("child-0").result(DEADLINE) == "stale"
        await hub.get("child-1").raise_event("go", "fresh")
        assert await handle.result(DEADLINE) == "fresh"


def _is_generation(number: int, status: InstanceStatus) -> bool:
    return status.execution_id.endswith(f".{number}")


async def test_across_restarts(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def steps(ctx: OrchestrationContext, heard: list[int]) -> list[int]:
        heard = [*heard, await ctx.wait_for_external_event("n", int)]
        if len(heard) == 6:
            return heard
        ctx.continue_as_new(heard)

    async with hub:
        handle = await hub.start(steps, [])
        for n in range(6):
            async with hub.worker():
                await handle.raise_event("n", n)
                if n < 5:
                    await until(handle.status, partial(_is_generation, n + 1))
        async with hub.worker():
            assert await handle.result(DEADLINE) == list(range(6))


async def test_many_generations_leave_nothing_behind(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def eternal(ctx: OrchestrationContext, n: int) -> int:
        if n:
            ctx.continue_as_new(n - 1)
        return ctx.history_length

    async with hub.worker(keep_executions=2):
        handle = await hub.start(eternal, 100)
        assert await handle.result(60) == 0
        status = await handle.status()
        assert status.execution_id.endswith(".100")
        backend = hub._backend
        assert backend is not None
        start = status.execution_id.partition(".")[0]
        kept = [n for n in range(1, 101) if await backend.load(handle.instance_id, f"{start}.{n}")]
        assert kept == [98, 99, 100]
        assert not await backend.load(handle.instance_id, start)


async def test_bad_arguments_are_an_error_where_they_are_given(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def typed(ctx: OrchestrationContext, n: int) -> str:
        try:
            ctx.continue_as_new("text")
        except Exception as error:
            return type(error).__name__

    async with hub.worker():
        handle = await hub.start(typed, 1)
        assert await handle.result(DEADLINE) == "PayloadError"
        assert not any(isinstance(event, ev.ContinueAsNew) for event in await handle.history())
