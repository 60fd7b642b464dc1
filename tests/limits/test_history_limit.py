"""The length of a history: warned of as it doubles, and ended at the limit by a turn that is recorded."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from durable import (
    EntityId,
    HistoryLimitError,
    OrchestrationContext,
    OrchestrationFailedError,
    Registry,
    RuntimeStatus,
    Settings,
    SubOrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.histories import replay_strictly, rows_of
from tests.e2e.waiting import until

DEADLINE = 30
ROWS = 4  # of a turn that takes in one outcome and asks for one thing
TILL = EntityId("till", "one")

registry = Registry()


@registry.activity
async def step(number: int) -> int:
    return number + 1


@registry.activity
async def endless() -> None:
    await asyncio.Event().wait()


@registry.entity
class Till:
    amount: int = 0

    def add(self, amount: int) -> int:
        self.amount += amount
        return self.amount


@registry.orchestrator
async def steps(ctx: OrchestrationContext, count: int) -> int:
    number = 0
    while number < count:
        number = await step(number)
    return number


@registry.orchestrator
async def steps_afresh(ctx: OrchestrationContext, count: int, number: int = 0) -> int:
    for _ in range(5):
        number = await step(number)
    if number < count:
        ctx.continue_as_new(count, number)
    return number


@registry.orchestrator
async def waits(ctx: OrchestrationContext) -> None:
    await ctx.wait_for_external_event("never")


@registry.orchestrator
async def parent(ctx: OrchestrationContext) -> str:
    try:
        await steps(10_000)
    except SubOrchestrationFailedError as error:
        return error.details.error_type
    return "it did not fail"


@registry.orchestrator
async def holds_much(ctx: OrchestrationContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(endless())
        group.create_task(waits.options(instance_id="ends-with-it")())
        group.create_task(asyncio.sleep(3600))
        async with ctx.lock(TILL):
            for number in range(1000):
                await step(number)


@registry.orchestrator
async def sums(ctx: OrchestrationContext, count: int) -> int:
    return sum([await ctx.wait_for_external_event("number", int) for _ in range(count)])


def make_hub(hub_url: str, **settings: Any) -> TaskHub:
    hub = TaskHub(hub_url, settings=Settings(**settings))
    hub.include(registry)
    return hub


def warnings_of(caplog: pytest.LogCaptureFixture, instance_id: str) -> list[int]:
    """The lengths of which was warned."""
    told = [record for record in caplog.records if "continue_as_new" in record.msg and record.args]
    assert all(record.levelno == logging.WARNING for record in told)
    return [record.args[3] for record in told if record.args[0] == instance_id]  # type: ignore[index, misc]


def have_come(count: int, history: list[Any]) -> bool:
    """Whether so many external events are recorded."""
    return len(rows_of(history, ev.EventRaised)) >= count


# --- the warning


async def test_it_is_warned_of_at_the_threshold_and_at_each_doubling(
    hub_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = make_hub(hub_url, history_warning=40, cache_instances=1)
    async with hub.worker():
        others = [await hub.start(waits) for _ in range(3)]  # what is loaded again is not warned of again
        assert await (await hub.start(steps, 60, instance_id="long")).result(DEADLINE) == 60
        assert await (await hub.start(steps, 5, instance_id="short")).result(DEADLINE) == 5
        for other in others:
            await other.terminate()
    lengths = warnings_of(caplog, "long")
    assert [length // 40 for length in lengths] == [1, 2, 4]
    assert all(length % 40 < ROWS for length in lengths)
    assert warnings_of(caplog, "short") == []


async def test_who_continues_as_new_is_not_warned(hub_url: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = make_hub(hub_url, history_warning=40, max_history=60)
    async with hub.worker():
        assert await (await hub.start(steps_afresh, 60, instance_id="fresh")).result(DEADLINE) == 60
    assert warnings_of(caplog, "fresh") == []


async def test_zero_is_no_warning_and_no_limit(hub_url: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = make_hub(hub_url, history_warning=0, max_history=0)
    async with hub.worker():
        assert await (await hub.start(steps, 60, instance_id="long")).result(DEADLINE) == 60
    assert warnings_of(caplog, "long") == []


async def test_entities_begin_afresh_by_themselves(hub_url: str, caplog: pytest.LogCaptureFixture) -> None:
    hub = make_hub(hub_url, history_warning=10, max_history=20)
    async with hub.worker():
        for number in range(1, 21):
            assert await asyncio.wait_for(hub.call_entity(Till.add, "one", 1), DEADLINE) == number
    assert warnings_of(caplog, str(TILL)) == []


# --- the limit


async def test_the_instance_fails_at_the_limit(hub_url: str) -> None:
    hub = make_hub(hub_url, max_history=50)
    async with hub.worker():
        handle = await hub.start(steps, 10_000, instance_id="eternal")
        with pytest.raises(OrchestrationFailedError, match=r"max_history is 50.*ctx\.continue_as_new") as failed:
            await handle.result(DEADLINE)
        assert failed.value.details.is_caused_by(HistoryLimitError)
        assert (await handle.status()).problem is None
        history = await handle.history()
    assert 50 <= len(history) < 50 + 2 * ROWS
    assert isinstance(history[-2], ev.ExecutionCompleted)
    replay_strictly(hub, history)


async def test_other_settings_later_do_not_change_what_happened(hub_url: str) -> None:
    async with make_hub(hub_url, max_history=50).worker():
        pass
    hub = make_hub(hub_url, max_history=50)
    async with hub.worker():
        handle = await hub.start(steps, 10_000, instance_id="eternal")
        with pytest.raises(OrchestrationFailedError):
            await handle.result(DEADLINE)
    hub = make_hub(hub_url)
    async with hub.worker():
        assert (await hub.get("eternal").status()).runtime_status is RuntimeStatus.FAILED
        replay_strictly(hub, await hub.get("eternal").history())


async def test_what_it_holds_is_given_up(hub_url: str) -> None:
    hub = make_hub(hub_url, max_history=100)
    async with hub.worker():
        handle = await hub.start(holds_much)
        with pytest.raises(OrchestrationFailedError, match="max_history is 100"):
            await handle.result(DEADLINE)
        assert await asyncio.wait_for(hub.call_entity(Till.add, "one", 1), DEADLINE) == 1  # its lock is free
        child = hub.get("ends-with-it")
        await until(child.status, lambda status: status.runtime_status is RuntimeStatus.TERMINATED)
        history = await handle.history()
    cancelled = {event.task_id for event in rows_of(history, ev.TaskCancelRequested)}
    assert {event.task_id for event in rows_of(history, ev.TaskScheduled) if event.name == "endless"} <= cancelled
    replay_strictly(hub, history)


async def test_a_parent_is_told(hub_url: str) -> None:
    hub = make_hub(hub_url, max_history=50)
    async with hub.worker():
        result = await (await hub.start(parent)).result(DEADLINE)
    assert result == "durable.core.errors.HistoryLimitError"


async def test_an_instance_that_was_stopped_by_it_is_rewound_under_a_higher_limit(hub_url: str) -> None:
    """Events that came after the limit was reached were taken in: they are not lost."""
    hub = make_hub(hub_url, max_history=50)
    async with hub.worker():
        handle = await hub.start(sums, 30, instance_id="sums")
        came = 0
        history: list[Any] = []
        while not rows_of(history, ev.ExecutionCompleted):
            await handle.raise_event("number", came)
            came += 1
            history = await until(handle.history, partial(have_come, came))
        with pytest.raises(OrchestrationFailedError):
            await handle.result(DEADLINE)
    assert came < 30
    hub = make_hub(hub_url, max_history=1000)
    async with hub.worker():
        await hub.get("sums").rewind("with a higher limit")
        for number in range(came, 30):
            await hub.get("sums").raise_event("number", number)
        assert await hub.get("sums").result(DEADLINE) == sum(range(30))


async def test_a_rewind_under_the_same_limit_fails_again(hub_url: str) -> None:
    hub = make_hub(hub_url, max_history=50)
    async with hub.worker():
        handle = await hub.start(steps, 100)
        with pytest.raises(OrchestrationFailedError):
            await handle.result(DEADLINE)
        before = len(await handle.history())
        await handle.rewind()
        await until(handle.history, lambda history: len(history) > before)
        with pytest.raises(OrchestrationFailedError, match="max_history is 50"):
            await handle.result(DEADLINE)


async def test_it_can_be_terminated_at_the_limit(hub_url: str) -> None:
    hub = make_hub(hub_url, max_history=4)  # the first turn has as many
    async with hub.worker():
        handle = await hub.start(waits)
        await handle.wait_for_start(DEADLINE)
        await handle.terminate("enough")
        status = await until(handle.status, lambda status: status.completed_at is not None)
    assert (status.runtime_status, status.output) == (RuntimeStatus.TERMINATED, "enough")
