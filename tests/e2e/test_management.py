"""Terminate, who cannot be told, and what clients see, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from durable import (
    InstanceFinishedError,
    InstanceNotFoundError,
    InstanceStatus,
    OrchestrationContext,
    OrchestrationTerminatedError,
    RuntimeStatus,
    TaskHub,
)
from durable.backend import Annotation
from durable.core import events as ev
from durable.testing.memory import MemoryBackend
from tests.e2e.histories import given_up, kinds_of, rows_of
from tests.e2e.virtual_time import in_virtual_time, virtual_hub
from tests.e2e.waiting import until

DEADLINE = 30


def is_(status: RuntimeStatus) -> Any:
    return lambda seen: seen.runtime_status is status


async def terminated_with(handle: Any, output: object) -> InstanceStatus:
    """The status of an instance that ended as Terminated with that output."""
    with pytest.raises(OrchestrationTerminatedError) as caught:
        await handle.result(DEADLINE)
    assert caught.value.output == output
    status: InstanceStatus = await handle.status()
    assert (status.runtime_status, status.output) == (RuntimeStatus.TERMINATED, output)
    return status


class Gated:
    """A hub with an activity that waits for ``gate``; ``log`` is what it did."""

    def __init__(self, hub_url: str, gate: asyncio.Event | None = None, log: list[str] | None = None) -> None:
        self.hub = TaskHub(hub_url)
        self.gate = gate or asyncio.Event()
        self.log: list[str] = [] if log is None else log

        @self.hub.activity
        async def gated() -> str:
            self.log.append("begun")
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.log.append("cancelled")
                raise
            self.log.append("done")
            return "activity"

        self.activity = gated


# --- terminate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suspended", [False, True])
async def test_terminating_what_runs_asks_no_code_and_cancels_its_activities(hub_url: str, suspended: bool) -> None:
    gated = Gated(hub_url)

    @gated.hub.orchestrator
    async def stubborn(ctx: OrchestrationContext) -> None:
        try:
            await asyncio.gather(gated.activity(), asyncio.sleep(3600))
        except asyncio.CancelledError:
            gated.log.append("asked")
            raise
        finally:
            await gated.activity()

    async with gated.hub.worker():
        handle = await gated.hub.start(stubborn)
        await until(lambda: gated.log, lambda seen: seen == ["begun"])
        if suspended:
            await handle.suspend()
            await until(handle.status, is_(RuntimeStatus.SUSPENDED))
        await handle.terminate({"code": 7})
        status = await terminated_with(handle, {"code": 7})
        await until(lambda: gated.log, lambda seen: "cancelled" in seen)
        history = await handle.history()
        with pytest.raises(InstanceFinishedError, match="Terminated"):
            await handle.terminate()
    assert status.completed_at is not None
    assert gated.log == ["begun", "cancelled"]
    assert len(rows_of(history, ev.TaskScheduled)) == 1
    assert kinds_of(history)[-3:] == ["ExecutionTerminated", "TaskCancelRequested", "ExecutionCompleted"]
    assert given_up(history) == ["TaskScheduled"]


async def test_terminating_what_has_not_begun(hub_url: str) -> None:
    gated = Gated(hub_url)

    @gated.hub.orchestrator
    async def never_begun(ctx: OrchestrationContext) -> None:
        await gated.activity()

    async with gated.hub:
        handle = await gated.hub.start(never_begun)
        await handle.terminate("changed our mind")
        assert (await handle.status()).runtime_status is RuntimeStatus.PENDING
        async with gated.hub.worker():
            await terminated_with(handle, "changed our mind")
        async with gated.hub.worker():
            await terminated_with(handle, "changed our mind")
    assert gated.log == []


@pytest.mark.parametrize("problem", ["unknown", "non-deterministic", "never known"])
async def test_terminating_what_is_parked_runs_nothing_again(hub_url: str, problem: str) -> None:
    gated = Gated(hub_url)

    async def before(ctx: OrchestrationContext) -> None:
        await gated.activity()

    if problem == "never known":
        async with TaskHub(hub_url) as client:
            await client.start("job", instance_id="it")
    else:
        gated.hub.orchestrator(name="job")(before)
        async with gated.hub.worker(drain_time=0.05):
            await gated.hub.start("job", instance_id="it")
            await until(lambda: gated.log, lambda seen: seen == ["begun"])
        assert gated.log == ["begun", "cancelled"]
    ran = list(gated.log)

    after = Gated(hub_url, log=gated.log)

    async def another_order(ctx: OrchestrationContext) -> None:
        await asyncio.sleep(1)

    if problem == "non-deterministic":
        after.hub.orchestrator(name="job")(another_order)
    async with after.hub.worker(drain_time=0.05):
        handle = after.hub.get("it")
        status = await until(handle.status, lambda s: s.problem is not None)
        wrong = "NonDeterminismError" if problem == "non-deterministic" else "UnknownFunctionError"
        assert status.problem.startswith(wrong)
        assert not status.runtime_status.is_terminal
        await handle.terminate("hopeless")
        assert (await terminated_with(handle, "hopeless")).problem is None
    assert gated.log == ran


def test_terminating_while_it_is_being_parked_takes_no_retry_delay() -> None:
    class Slow(MemoryBackend):
        """Says when a problem is about to be noted, and waits."""

        def __init__(self) -> None:
            super().__init__()
            self.noting, self.go_on = asyncio.Event(), asyncio.Event()

        async def annotate(self, annotations: Sequence[Annotation]) -> None:
            self.noting.set()
            await self.go_on.wait()
            await super().annotate(annotations)

    async def main() -> float:
        backend = Slow()
        hub = virtual_hub(backend)
        async with hub:
            handle = await hub.start("unknown")
            async with hub.worker():
                await backend.noting.wait()
                await handle.terminate("hopeless")
                began = asyncio.get_running_loop().time()
                backend.go_on.set()
                await terminated_with(handle, "hopeless")
                return asyncio.get_running_loop().time() - began

    assert in_virtual_time(main) < 1.0  # seconds; the first retry's delay


# --- who cannot be told, and what is seen ----------------------------------------------------------


async def test_unknown_and_finished_instances_take_nothing(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def short(ctx: OrchestrationContext) -> str:
        return "done"

    async with hub.worker():
        handle = await hub.start(short)
        await handle.result(DEADLINE)
        nobody = hub.get("nobody")
        for call in ("suspend", "resume", "cancel", "terminate"):
            with pytest.raises(InstanceNotFoundError, match="nobody"):
                await getattr(nobody, call)("why")
            with pytest.raises(InstanceFinishedError, match="Completed"):
                await getattr(handle, call)("why")
        for look in (nobody.status, nobody.history, nobody.result):
            with pytest.raises(InstanceNotFoundError, match="nobody"):
                await look()
        with pytest.raises(InstanceNotFoundError, match="nobody"):
            await nobody.raise_event("x")
        assert await handle.result() == "done"
        assert kinds_of(await handle.history()) == ["ExecutionStarted", "ExecutionCompleted"]


async def test_custom_status_is_visible_when_the_activities_of_its_turn_run(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    seen: list[Any] = []

    @hub.activity
    async def look(instance_id: str) -> None:
        seen.append((await hub.get(instance_id).status()).custom_status)

    @hub.orchestrator
    async def shows(ctx: OrchestrationContext) -> None:
        for n in range(3):
            ctx.set_custom_status("overwritten in its turn")
            ctx.set_custom_status({"step": n})
            await look(ctx.instance_id)
        ctx.set_custom_status(None)
        await look(ctx.instance_id)
        ctx.set_custom_status(["last"])

    async with hub.worker(), TaskHub(hub_url) as elsewhere:
        handle = await hub.start(shows)
        await handle.result(DEADLINE)
        await until(elsewhere.get(handle.instance_id).status, lambda s: s.custom_status == ["last"])
        history = await handle.history()
    assert seen == [{"step": 0}, {"step": 1}, {"step": 2}, None]
    assert len(rows_of(history, ev.CustomStatusSet)) == 5


async def test_hubs_on_one_store_do_not_see_each_other(hub_url: str) -> None:
    hubs = [TaskHub(hub_url, name=name) for name in ("blue", "green")]

    async def listen(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("x", str)

    for hub in hubs:
        hub.orchestrator(listen)
    blue, green = hubs
    async with blue.worker(), green.worker():
        mine = await blue.start("listen", instance_id="same")
        with pytest.raises(InstanceNotFoundError):
            await green.get("same").status()
        other = await green.start("listen", instance_id="same")
        await mine.raise_event("x", "for blue")
        assert await mine.result(DEADLINE) == "for blue"
        assert (await other.status()).runtime_status is RuntimeStatus.RUNNING
        await other.terminate("green only")
        await terminated_with(other, "green only")
        # A query reads what the store shows, which may lag a moment behind what handles know.
        await until(blue.query, lambda found: [one.runtime_status for one in found] == [RuntimeStatus.COMPLETED])
        await until(green.query, lambda found: [one.runtime_status for one in found] == [RuntimeStatus.TERMINATED])
