"""Purging what has ended, and what it called, on every store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import (
    BackendUnavailable,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    OrchestrationContext,
    RuntimeStatus,
    Settings,
    TaskHub,
)
from durable.backend_url import create_backend
from durable.testing.faults import Fault, FaultyBackend, Step, scripted_plan
from durable.testing.memory import MemoryBackend
from tests.e2e.waiting import until

DEADLINE = 30


def tree_hub(hub: TaskHub) -> tuple[Any, Any]:
    """Two orchestrators: one that calls itself twice down to depth 0, one that waits for the event "go"."""

    @hub.orchestrator
    async def tree(ctx: OrchestrationContext, depth: int) -> int:
        if depth == 0:
            return 1
        return sum(await asyncio.gather(*(ctx.call_sub_orchestrator(tree, depth - 1) for _ in range(2))))

    @hub.orchestrator
    async def listen(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("go", str)

    return tree, listen


async def all_ids(hub: TaskHub) -> list[str]:
    return sorted([status.instance_id async for status in hub.query()])


@pytest.mark.parametrize(("recursive", "gone"), [(True, 7), (False, 1)])
async def test_a_tree_goes_as_a_whole_or_only_its_root(hub_url: str, recursive: bool, gone: int) -> None:
    hub = TaskHub(hub_url)
    tree, _ = tree_hub(hub)
    async with hub:
        async with hub.worker():
            handle = await hub.start(tree, 2)
            assert await handle.result(DEADLINE) == 4
            assert len(await all_ids(hub)) == 7
            assert await handle.purge(recursive=recursive) == gone
            for look in (handle.status, handle.history, handle.purge):
                with pytest.raises(InstanceNotFoundError):
                    await look()
        assert len(await all_ids(hub)) == 7 - gone


async def test_what_runs_is_not_purged(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    _, listen = tree_hub(hub)
    async with hub.worker():
        handle = await hub.start(listen, instance_id="one")
        await handle.wait_for_start(DEADLINE)
        with pytest.raises(InstanceNotFinishedError, match=r"'one' .* Running") as caught:
            await handle.purge()
        assert (caught.value.instance_id, caught.value.status) == ("one", "Running")
        await handle.raise_event("go", "x")
        assert await handle.result(DEADLINE) == "x"
        assert await handle.purge() == 1


async def test_children_of_former_executions_go_and_others_stay(hub_url: str) -> None:
    """Abandoned children run on; what was started and not waited for, and strangers, are not the tree's."""
    hub = TaskHub(hub_url)
    tree, listen = tree_hub(hub)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext, round: int) -> str:
        await ctx.call_sub_orchestrator(tree, 0, instance_id=f"round-{round}")
        if round < 2:
            ctx.continue_as_new(round + 1)
        ctx.start_orchestration(tree, 0, instance_id="detached")
        abandoned = asyncio.ensure_future(listen.options(instance_id="abandoned", parent_close="abandon")())
        await asyncio.sleep(0)
        results = await asyncio.gather(listen.options(instance_id="stranger")(), return_exceptions=True)
        await ctx.wait_for_external_event("end")
        abandoned.cancel()
        return type(results[0]).__name__

    async with hub.worker():
        stranger = await hub.start(tree, 0, instance_id="stranger")
        await stranger.result(DEADLINE)
        handle = await hub.start(parent, 0, instance_id="parent")
        await until(hub.get("detached").status, lambda s: s.runtime_status is RuntimeStatus.COMPLETED)
        await until(hub.get("abandoned").status, lambda s: s.runtime_status is RuntimeStatus.RUNNING)
        await handle.terminate()
        await until(handle.status, lambda s: s.runtime_status is RuntimeStatus.TERMINATED)
        assert await handle.purge() == 4  # the parent and one child of each round
        await until(lambda: all_ids(hub), lambda ids: ids == ["abandoned", "detached", "stranger"])


async def test_children_that_end_with_their_parent_are_waited_for(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    _, listen = tree_hub(hub)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> None:
        await asyncio.gather(*(listen.options(instance_id=f"child-{n}")() for n in range(3)))

    async with hub.worker():
        handle = await hub.start(parent)
        for n in range(3):
            await until(hub.get(f"child-{n}").status, lambda s: s.runtime_status is RuntimeStatus.RUNNING)
        await handle.terminate()
        await until(handle.status, lambda s: s.runtime_status is RuntimeStatus.TERMINATED)
        assert await handle.purge() == 4
        assert await all_ids(hub) == []


@pytest.mark.parametrize("fault", [Fault.FAIL_BEFORE, Fault.FAIL_AFTER])
async def test_a_purge_in_doubt_is_repeated(hub_url: str, fault: Fault) -> None:
    backend = FaultyBackend(create_backend(hub_url, "default"), scripted_plan({"purge": [Step(fault), Step(fault)]}))
    hub = TaskHub(backend)
    tree, _ = tree_hub(hub)
    async with hub.worker():
        handle = await hub.start(tree, 1)
        await handle.result(DEADLINE)
        await handle.purge()
        assert await all_ids(hub) == []


@pytest.mark.parametrize(("levels_gone", "left"), [(0, 7), (1, 3), (2, 1)])
async def test_a_purge_that_is_interrupted_can_be_done_again(levels_gone: int, left: int) -> None:
    """The leaves go first: whatever is left is still found from the root."""
    answers = [Step()] * levels_gone + [Step(Fault.FAIL_BEFORE)] * 50
    steps = {"purge": answers}
    backend = FaultyBackend(MemoryBackend(), lambda op: steps[op].pop(0) if steps.get(op) else Step())
    hub = TaskHub(backend, settings=Settings(start_timeout=0.5))
    tree, _ = tree_hub(hub)
    async with hub.worker():
        handle = await hub.start(tree, 2)
        await handle.result(DEADLINE)
        with pytest.raises(BackendUnavailable):
            await handle.purge()
        steps["purge"] = []
        assert len(await all_ids(hub)) == left
        assert await handle.purge() == left
        assert await all_ids(hub) == []
