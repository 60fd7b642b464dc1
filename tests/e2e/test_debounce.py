"""Debounced starts: the last one wins, the limit holds, and races with clients and workers have one outcome."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from time import monotonic

import pytest

from durable import InstanceExistsError, OrchestrationContext, RuntimeStatus, Settings, TaskHub
from durable.core import events as ev

DEADLINE = 30
SOON = timedelta(seconds=1)


def hub_on(url: str) -> tuple[TaskHub, list[str]]:
    hub, runs = TaskHub(url, settings=Settings(keep_executions=1)), []

    @hub.activity
    async def note(text: str) -> str:
        runs.append(text)
        return text

    @hub.orchestrator
    async def report(ctx: OrchestrationContext, text: str) -> str:
        return await note(text)

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext, text: str) -> str:
        return str(await ctx.wait_for_external_event("go"))

    return hub, runs


async def test_the_last_start_wins(hub_url: str) -> None:
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        for number in range(6):
            handle = await hub.start("report", f"{number}", instance_id="r", debounce=SOON)
            began = monotonic()
            await asyncio.sleep(0.05)
        assert (await handle.status()).runtime_status is RuntimeStatus.PENDING
        assert await handle.result(DEADLINE) == "5"
        assert monotonic() - began > 0.95
        started, *_ = await handle.history()
    assert runs == ["5"]
    assert isinstance(started, ev.ExecutionStarted)
    assert started.input == '["5"]'


async def test_the_limit_holds(hub_url: str) -> None:
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        began = monotonic()
        long, limit = timedelta(seconds=20), timedelta(seconds=2)
        for number in range(3):
            handle = await hub.start("report", f"{number}", instance_id="r", debounce=long, debounce_limit=limit)
        assert await handle.result(DEADLINE) == "2"
        assert monotonic() - began < 10
    assert runs == ["2"]


async def test_starts_at_once_leave_one_instance(hub_url: str) -> None:
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        while_all_come = timedelta(seconds=3)
        starts = [hub.start("report", f"{number}", instance_id="r", debounce=while_all_come) for number in range(8)]
        handles = await asyncio.gather(*starts)
        result = await handles[0].result(DEADLINE)
        assert {await handle.result(DEADLINE) for handle in handles} == {result}
    assert runs == [result]


async def test_a_start_that_was_accepted_is_the_one_that_runs(hub_url: str) -> None:
    """Starts come just when the former one is to begin: each is taken in, or finds that it has begun."""
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        for turn in range(10):
            accepted = f"{turn}"
            handle = await hub.start("report", accepted, instance_id=f"r{turn}", debounce=timedelta(seconds=0.03))
            await asyncio.sleep(0.02 + 0.002 * turn)
            try:
                await hub.start("report", "late", instance_id=f"r{turn}", debounce=timedelta(seconds=0.03))
                accepted = "late"
            except InstanceExistsError:
                pass
            assert await handle.result(DEADLINE) == accepted
    assert len(runs) == 10


async def test_what_has_begun_is_a_conflict_like_any_other(hub_url: str) -> None:
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        handle = await hub.start("waits", "x", instance_id="w", debounce=timedelta(seconds=0.01))
        await handle.wait_for_start(DEADLINE)
        with pytest.raises(InstanceExistsError):
            await hub.start("waits", "y", instance_id="w", debounce=SOON)
        await handle.raise_event("go", "gone")
        assert await handle.result(DEADLINE) == "gone"
        again = await hub.start("report", "z", instance_id="w", debounce=SOON, on_conflict="replace_finished")
        assert await again.result(DEADLINE) == "z"
    assert runs == ["z"]


async def test_one_that_waits_can_be_terminated(hub_url: str) -> None:
    hub, runs = hub_on(hub_url)
    async with hub.worker():
        for number in range(3):
            handle = await hub.start("report", f"{number}", instance_id="r", debounce=timedelta(hours=1))
        await handle.terminate("enough")
        async with asyncio.timeout(DEADLINE):
            while not (status := await handle.status()).runtime_status.is_terminal:
                await asyncio.sleep(0.01)
        assert status.runtime_status is RuntimeStatus.TERMINATED
    assert runs == []


async def test_options_that_make_no_sense_are_refused(hub_url: str) -> None:
    hub, _ = hub_on(hub_url)
    async with hub:
        with pytest.raises(ValueError, match="needs an instance_id"):
            await hub.start("report", "x", debounce=SOON)
        with pytest.raises(ValueError, match="debounce_limit needs debounce"):
            await hub.start("report", "x", instance_id="r", debounce_limit=SOON)
        with pytest.raises(ValueError, match="longer than zero"):
            await hub.start("report", "x", instance_id="r", debounce=timedelta(0))
