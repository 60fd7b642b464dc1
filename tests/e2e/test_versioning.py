"""Versions: of instances and workers, and patches in the code, on every store."""

from __future__ import annotations

from typing import Any

import pytest

from durable import OrchestrationContext, OrchestrationFailedError, TaskHub, VersionFailure, VersionMatch
from durable.core import events as ev
from durable.core.versions import matches
from tests.e2e.waiting import until

DEADLINE = 30


async def test_version_of_start_child_and_setting(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str | None:
        return ctx.version

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str | None]:
        return [ctx.version, await child(), await child.options(version="3.1")()]

    async with hub.worker():
        handle = await hub.start(parent, version="2.0")
        assert await handle.result(DEADLINE) == ["2.0", "2.0", "3.1"]
        assert (await handle.status()).version == "2.0"
        assert await (await hub.start(parent)).result(DEADLINE) == [None, None, "3.1"]


@pytest.mark.parametrize(
    ("rule", "worker", "instance", "expected"),
    [
        ("none", "1.0", "2.0", True),
        ("strict", "1.0", "1.0", True),
        ("strict", "1.0", None, False),
        ("strict", "1.0", "1.0.0", False),
        ("current_or_older", "1.10", "1.9", True),
        ("current_or_older", "1.9", "1.10", False),
        ("current_or_older", "2.0", "2.0-beta", True),
        ("current_or_older", "2.0-beta", "2.0", False),
        ("current_or_older", "1.0", None, True),
        ("current_or_older", None, "1.0", False),
    ],
)
def test_matching(rule: str, worker: str | None, instance: str | None, expected: bool) -> None:
    assert matches(VersionMatch(rule), worker, instance) is expected


async def test_an_instance_of_another_version_waits_or_fails(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def tells(ctx: OrchestrationContext) -> str | None:
        return ctx.version

    old: dict[str, Any] = {"version": "1.0", "version_match": VersionMatch.CURRENT_OR_OLDER}
    async with hub:
        async with hub.worker(**old):
            assert await (await hub.start(tells, version="0.9")).result(DEADLINE) == "0.9"
            waiting = await hub.start(tells, version="2.0")
            status = await until(waiting.status, lambda s: s.problem is not None)
            assert status.problem.startswith("VersionMismatchError")
        async with hub.worker(**old | {"version": "2.0"}):
            assert await waiting.result(DEADLINE) == "2.0"
        async with hub.worker(**old, version_failure=VersionFailure.FAIL):
            with pytest.raises(OrchestrationFailedError, match=r"has version '2\.0'"):
                await (await hub.start(tells, version="2.0")).result(DEADLINE)


async def test_patched_code_serves_old_and_new_instances(hub_url: str) -> None:
    """An instance that passed before the patch goes the old way for ever; a new one the new way, also in replay."""

    def code(patched: bool) -> TaskHub:
        hub = TaskHub(hub_url)

        @hub.activity
        async def old_way() -> str:
            return "old"

        @hub.activity
        async def new_way() -> str:
            return "new"

        @hub.orchestrator
        async def changing(ctx: OrchestrationContext) -> list[str]:
            went = []
            for _ in range(2):
                went.append(await (new_way() if patched and ctx.patched("faster") else old_way()))
                await ctx.wait_for_external_event("go")
            return went

        return hub

    def rows(count: int) -> Any:
        return lambda history: sum(isinstance(event, ev.TaskCompleted) for event in history) == count

    before, after = code(patched=False), code(patched=True)
    async with before.worker():
        await before.start("changing", instance_id="old")
        await until(before.get("old").history, rows(1))
    async with after.worker():
        await after.start("changing", instance_id="new")
        await until(after.get("new").history, rows(1))
        await after.get("old").raise_event("go")
        await after.get("new").raise_event("go")
        await until(after.get("old").history, rows(2))
        await until(after.get("new").history, rows(2))
    async with after.worker():
        for name in ("old", "new"):
            await after.get(name).raise_event("go")
        assert await after.get("old").result(DEADLINE) == ["old", "old"]
        assert await after.get("new").result(DEADLINE) == ["new", "new"]
        markers = [e for e in await after.get("new").history() if isinstance(e, ev.VersionMarker)]
        assert [marker.patch_id for marker in markers] == ["faster"]
        assert not any(isinstance(e, ev.VersionMarker) for e in await after.get("old").history())


async def test_a_changed_orchestrator_parks_old_instances(hub_url: str) -> None:
    def code(first: str) -> TaskHub:
        hub = TaskHub(hub_url)

        @hub.activity
        async def one() -> int:
            return 1

        @hub.activity
        async def two() -> int:
            return 2

        @hub.orchestrator
        async def changing(ctx: OrchestrationContext) -> int:
            n = await (one() if first == "one" else two())
            await ctx.wait_for_external_event("go")
            return n

        return hub

    before, after = code("one"), code("two")
    async with before.worker():
        await before.start("changing", instance_id="it")
        await until(before.get("it").history, lambda h: any(isinstance(e, ev.TaskCompleted) for e in h))
    async with after.worker():
        await after.get("it").raise_event("go")
        status = await until(after.get("it").status, lambda s: s.problem is not None)
    problem = status.problem
    assert problem.startswith("NonDeterminismError")
    assert "at event 2: expected TaskScheduled 'one' (task 1) at test_versioning.py:" in problem
    assert "got TaskScheduled 'two' (task 1) at test_versioning.py:" in problem
    async with before.worker():
        assert await before.get("it").result(DEADLINE) == 1
