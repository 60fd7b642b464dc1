"""Orchestrations that call orchestrations, on every store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from durable import (
    OrchestrationContext,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    PayloadError,
    RetryPolicy,
    RuntimeStatus,
    SubOrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30


def family(hub_url: str) -> tuple[TaskHub, dict[str, Any]]:
    """A hub with a child that doubles, fails, waits or dawdles."""
    hub = TaskHub(hub_url)

    @hub.activity
    async def double(n: int) -> int:
        return 2 * n

    @hub.orchestrator
    async def doubling(ctx: OrchestrationContext, n: int, *, times: int = 1) -> int:
        for _ in range(times):
            n = await double(n)
        return n

    @hub.orchestrator
    async def failing(ctx: OrchestrationContext, what: str) -> None:
        raise LookupError(what)

    @hub.orchestrator
    async def waiting(ctx: OrchestrationContext, name: str = "go") -> str:
        try:
            return str(await ctx.wait_for_external_event(name, str))
        except asyncio.CancelledError:
            ctx.set_custom_status("cancelled")
            await double(1)
            raise

    return hub, {"doubling": doubling, "failing": failing, "waiting": waiting}


async def test_children_by_definition_and_by_name(hub_url: str) -> None:
    hub, defined = family(hub_url)
    doubling = defined["doubling"]

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[Any]:
        first = await doubling(1)
        second = await doubling(first, times=3)
        named = await ctx.call_sub_orchestrator("doubling", second, times=2)
        gathered = await asyncio.gather(doubling(5), doubling(6))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(doubling(n)) for n in (7, 8)]
        by_future = ctx.call_sub_orchestrator(doubling, 9)
        own_id = await doubling.options(instance_id="my-child")(10)
        return [first, second, named, gathered, [task.result() for task in tasks], await by_future, own_id]

    async with hub.worker():
        handle = await hub.start(parent, instance_id="top")
        assert await handle.result(DEADLINE) == [2, 16, 64, [10, 12], [14, 16], 18, 20]
        created = [event for event in await handle.history() if isinstance(event, ev.SubOrchestrationInstanceCreated)]
        assert len({event.instance_id for event in created}) == 9
        assert all(event.instance_id.startswith("top:") for event in created[:-1])
        for event in created:
            status = await hub.get(event.instance_id).status()
            assert status.runtime_status is RuntimeStatus.COMPLETED
            assert (status.parent_instance_id, status.root_instance_id) == ("top", "top")
        child = await hub.get("my-child").history()
        assert isinstance(child[0], ev.ExecutionStarted)
        assert child[0].parent is not None
        assert child[0].parent.instance_id == "top"


async def test_grandchildren_know_their_root(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def nest(ctx: OrchestrationContext, depth: int) -> list[list[str | None]]:
        own = [ctx.parent_instance_id, ctx.root_instance_id]
        return [own, *(await nest(depth - 1) if depth else [])]

    async with hub.worker():
        handle = await hub.start(nest, 3, instance_id="root")
        lineage = await handle.result(DEADLINE)
    assert [root for _, root in lineage] == ["root"] * 4
    assert lineage[0][0] is None
    assert lineage[1][0] == "root"


async def test_a_childs_failure_arrives_with_its_details(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        try:
            await defined["failing"]("the key")
        except SubOrchestrationFailedError as error:
            assert error.details.is_caused_by(LookupError)
            assert (await ctx.call_sub_orchestrator("doubling", 4)) == 8
            return f"{error.name} {error.details.message}"
        return "not reached"

    @hub.orchestrator
    async def careless(ctx: OrchestrationContext) -> None:
        await defined["failing"]("lost")

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == "failing the key"
        with pytest.raises(OrchestrationFailedError, match="lost") as caught:
            await (await hub.start(careless)).result(DEADLINE)
    assert caught.value.details.is_caused_by(SubOrchestrationFailedError)


async def test_an_id_that_is_taken_fails_the_call(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        try:
            await defined["doubling"].options(instance_id="stranger")(1)
        except SubOrchestrationFailedError as error:
            return error.details.error_type.rpartition(".")[2]
        return "not reached"

    async with hub.worker():
        stranger = await hub.start("waiting", instance_id="stranger")
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == "InstanceExistsError"
        assert (await stranger.status()).runtime_status is RuntimeStatus.RUNNING


async def test_bad_arguments_fail_the_call_and_nothing_is_started(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        try:
            await defined["doubling"]("not a number")
        except PayloadError as error:
            return str(error)
        return "not reached"

    async with hub.worker():
        handle = await hub.start(parent)
        assert "argument n" in await handle.result(DEADLINE)
        assert not any(isinstance(e, ev.SubOrchestrationInstanceCreated) for e in await handle.history())


async def test_children_are_retried_as_new_instances(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    attempts: list[str] = []

    @hub.orchestrator
    async def shaky(ctx: OrchestrationContext) -> str:
        attempts.append(ctx.instance_id)
        if len(attempts) < 3:
            raise ConnectionError("not yet")
        return ctx.instance_id

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        policy = RetryPolicy(max_attempts=3, first_interval=timedelta(milliseconds=10))
        return await shaky.options(retry=policy, instance_id="kid")()

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == "kid:3"
    assert attempts == ["kid", "kid:2", "kid:3"]


async def test_detached_ones_live_by_themselves(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def launcher(ctx: OrchestrationContext) -> list[str]:
        own = ctx.start_orchestration(defined["waiting"], "later")
        again = ctx.start_orchestration(defined["doubling"], 21, instance_id="once")
        ctx.start_orchestration("doubling", 5, instance_id="once")
        return [own, again]

    async with hub.worker():
        handle = await hub.start(launcher)
        own, once = await handle.result(DEADLINE)
        assert await hub.get(once).result(DEADLINE) == 42
        status = await hub.get(own).status()
        assert status.runtime_status in (RuntimeStatus.RUNNING, RuntimeStatus.PENDING)
        assert status.parent_instance_id is None
        await hub.get(own).raise_event("later", "done")
        assert await hub.get(own).result(DEADLINE) == "done"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("terminate", RuntimeStatus.TERMINATED), ("cancel", RuntimeStatus.CANCELED), ("abandon", RuntimeStatus.RUNNING)],
)
@pytest.mark.parametrize("end", ["return", "fail", "terminate"])
async def test_parent_close_policy(hub_url: str, policy: Any, expected: RuntimeStatus, end: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> None:
        child = defined["waiting"].options(instance_id="child", parent_close=policy)
        ctx.call_sub_orchestrator(child)
        await ctx.wait_for_external_event("end")
        if end == "fail":
            raise ValueError("over")

    async with hub.worker():
        handle = await hub.start(parent)
        await until(lambda: hub.get("child").status(), lambda s: s.runtime_status is RuntimeStatus.RUNNING)
        if end == "terminate":
            await handle.terminate("enough")
            with pytest.raises(OrchestrationTerminatedError, match="enough"):
                await handle.result(DEADLINE)
        else:
            await handle.raise_event("end")
            await until(handle.status, lambda s: s.runtime_status.is_terminal)
        if expected is RuntimeStatus.RUNNING:
            await hub.get("child").raise_event("go", "alone")
            assert await hub.get("child").result(DEADLINE) == "alone"
        else:
            await until(lambda: hub.get("child").status(), lambda s: s.runtime_status is expected)


async def test_terminating_reaches_grandchildren_unless_told_not_to(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def middle(ctx: OrchestrationContext, name: str) -> str:
        return str(await defined["waiting"].options(instance_id=name)())

    @hub.orchestrator
    async def top(ctx: OrchestrationContext, name: str) -> str:
        return await middle.options(instance_id=f"middle-{name}")(name)

    async with hub.worker():
        for name in ("a", "b"):
            await hub.start(top, name, instance_id=f"top-{name}")
            await until(partial(hub.query, id_prefix=name), lambda found: len(found) == 1)
        await hub.get("top-a").terminate(recursive=True)
        await until(hub.get("a").status, lambda s: s.runtime_status is RuntimeStatus.TERMINATED)
        await hub.get("top-b").terminate(recursive=False)
        with pytest.raises(OrchestrationTerminatedError):
            await hub.get("top-b").result(DEADLINE)
        await hub.get("b").raise_event("go", "on")
        assert await hub.get("middle-b").result(DEADLINE) == "on"


async def test_a_cancelled_call_cancels_the_child(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        try:
            await asyncio.wait_for(defined["waiting"].options(instance_id="slow")(), 0.05)
        except TimeoutError:
            return "timed out"
        return "not reached"

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == "timed out"
        status = await until(hub.get("slow").status, lambda s: s.runtime_status.is_terminal)
        assert status.runtime_status is RuntimeStatus.CANCELED
        assert status.custom_status == "cancelled"


async def test_a_cold_replay_starts_no_second_child(hub_url: str) -> None:
    hub, defined = family(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        first = await defined["doubling"](1)
        assert first == 2
        waited = await asyncio.gather(*[defined["waiting"](f"go{n}") for n in range(3)])
        return sorted(waited)

    async with hub.worker():
        handle = await hub.start(parent, instance_id="top")
        children = await until(lambda: hub.query(name="waiting"), lambda found: len(found) == 3)
    async with hub.worker():
        for child in children:
            name = child.input[0]
            await hub.get(child.instance_id).raise_event(name, name)
        assert await handle.result(DEADLINE) == ["go0", "go1", "go2"]
        assert len([one async for one in hub.query(name="waiting")]) == 3
