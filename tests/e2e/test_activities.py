"""What activities can know, report and leave to others, on every store."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    InstanceFinishedError,
    OrchestrationContext,
    RetryPolicy,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30
QUICK = RetryPolicy(max_attempts=3, first_interval=timedelta(milliseconds=5))


async def test_heartbeats_keep_an_attempt_alive(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity(heartbeat_timeout=timedelta(seconds=1))
    async def long() -> str:
        for n in range(25):
            await asyncio.sleep(0.05)
            ActivityContext.current().heartbeat({"done": n})
        return "alive"

    @hub.activity(heartbeat_timeout=timedelta(seconds=1))
    def threaded() -> str:
        for n in range(25):
            time.sleep(0.05)
            ActivityContext.current().heartbeat(n)
        return "alive in a thread"

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> list[str]:
        return list(await asyncio.gather(long(), threaded()))

    async with hub.worker():
        handle = await hub.start(orchestration)
        assert await handle.result(DEADLINE) == ["alive", "alive in a thread"]


async def test_silence_fails_the_attempt_and_the_next_one_gets_its_details(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    seen: list[Any] = []

    @hub.activity(heartbeat_timeout=timedelta(seconds=0.1), retry=QUICK)
    async def resumes() -> list[Any]:
        context = ActivityContext.current()
        seen.append((context.attempt, context.heartbeat_details, context.idempotency_key))
        if context.attempt < 3:
            context.heartbeat({"page": context.attempt * 10})
            await asyncio.sleep(DEADLINE)
        return [context.heartbeat_details, context.attempt]

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> list[Any]:
        return await resumes()

    async with hub.worker():
        handle = await hub.start(orchestration)
        assert await handle.result(DEADLINE) == [{"page": 20}, 3]
        failed = [event for event in await handle.history() if isinstance(event, ev.TaskFailed)]
    assert [attempt for attempt, _, _ in seen] == [1, 2, 3]
    assert [details for _, details, _ in seen] == [None, {"page": 10}, {"page": 20}]
    assert len({key for _, _, key in seen}) == 1
    assert all("no heartbeat" in event.failure.message for event in failed)


async def test_heartbeat_details_survive_the_worker(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    attempts: list[Any] = []

    @hub.activity
    async def slow() -> Any:
        context = ActivityContext.current()
        attempts.append(context.heartbeat_details)
        if len(attempts) == 1:
            context.heartbeat("half")
            await asyncio.sleep(DEADLINE)
        return context.heartbeat_details

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> Any:
        return await slow()

    async with hub:
        async with hub.worker(drain_time=0.05):
            handle = await hub.start(orchestration)

            async def stored() -> Any:
                assert hub._backend is not None
                [record] = await hub._backend.get([handle.instance_id])
                return record and record.heartbeats

            await until(stored, lambda beats: beats == {"1": '"half"'})
        async with hub.worker():
            assert await handle.result(DEADLINE) == "half"
    assert attempts == [None, "half"]


async def test_completion_from_outside(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    tokens: dict[str, str] = {}

    @hub.activity
    async def ask(who: str) -> int:
        context = ActivityContext.current()
        assert who not in tokens, "run again though it waits for its completion"
        tokens[who] = context.task_token
        result: int = context.complete_later()
        return result

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> list[Any]:
        answers = await asyncio.gather(ask("ann"), ask("bob"), return_exceptions=True)
        assert isinstance(answers[1], ActivityFailedError)
        return [answers[0], answers[1].details.message]

    async with hub:
        async with hub.worker():
            handle = await hub.start(orchestration)
            deferred = lambda h: sum(isinstance(e, ev.TaskDeferred) for e in h) == 2  # noqa: E731
            await until(handle.history, deferred)
        await hub.complete_activity(tokens["ann"], 42)
        async with hub.worker():
            await hub.fail_activity(tokens["bob"], ValueError("no answer"))
            await hub.complete_activity(tokens["ann"], 43)  # the first one counts
            assert await handle.result(DEADLINE) == [42, "no answer"]
            with pytest.raises(InstanceFinishedError):
                await hub.complete_activity(tokens["ann"], 44)
            with pytest.raises(ValueError, match="not a task token"):
                await hub.complete_activity("nonsense", 1)


async def test_a_deferred_call_can_be_cancelled(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def never() -> Any:
        return ActivityContext.current().complete_later()

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> str:
        try:
            await asyncio.wait_for(never(), 0.05)
        except TimeoutError:
            return "gave up"
        return "not reached"

    async with hub.worker():
        assert await (await hub.start(orchestration)).result(DEADLINE) == "gave up"


async def test_bad_heartbeats_are_errors_of_the_activity(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def bad() -> None:
        ActivityContext.current().heartbeat(object())

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> str:
        try:
            await bad()
        except ActivityFailedError as error:
            return error.details.message
        return "not reached"

    async with hub.worker():
        message = await (await hub.start(orchestration)).result(DEADLINE)
    assert "the heartbeat of activity 'bad'" in message
