"""Retries of activities and children, on every store: attempts and delays are history, so a restart changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    ActivityFailedError,
    ActivityTimeoutError,
    FailureDetails,
    NonRetryableError,
    OrchestrationCanceledError,
    OrchestrationContext,
    OrchestrationFailedError,
    RetryableError,
    RetryPolicy,
    SubOrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.histories import given_up, kinds_of, replay_strictly, rows_of
from tests.e2e.waiting import until

DEADLINE = 30
MS = timedelta(milliseconds=1)
SOON = RetryPolicy(max_attempts=3, first_interval=10 * MS)
ERRORS: dict[str, type[Exception]] = {
    "reset": ConnectionResetError,
    "value": ValueError,
    "never again": NonRetryableError,
    "wait": RetryableError,
}


class Flaky:
    """An activity that fails ``times`` times with an error of ``kind``, and then returns how often it was called."""

    def __init__(self, hub: TaskHub) -> None:
        self.calls: Counter[str] = Counter()
        self.activity = hub.activity(name="flaky")(self._run)

    async def _run(self, key: str, times: int, kind: str = "reset") -> int:
        self.calls[key] += 1
        if self.calls[key] <= times:
            raise ERRORS[kind](f"failure {self.calls[key]}")
        return self.calls[key]


def delays(history: list[ev.HistoryEvent]) -> list[int]:
    """The delays between attempts, in microseconds rounded to ten (a float of seconds may round up)."""
    return [round(row.fire_at - row.timestamp, -1) for row in rows_of(history, ev.TimerCreated)]


@pytest.mark.parametrize("form", ["options", "with_retry", "by_name"])
async def test_every_attempt_and_delay_is_in_history(hub_url: str, form: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)

    @hub.orchestrator
    async def persistent(ctx: OrchestrationContext, form: str) -> int:
        if form == "options":
            return await flaky.activity.options(retry=SOON)("it", 2)
        return await ctx.call_activity_with_retry(flaky.activity if form == "with_retry" else "flaky", SOON, "it", 2)

    async with hub.worker():
        handle = await hub.start(persistent, form)
        assert await handle.result(DEADLINE) == 3
        history = await handle.history()
    attempt = ["TaskScheduled", "TaskFailed", "TimerCreated", "TimerFired"]
    expected = ["ExecutionStarted", *attempt, *attempt, "TaskScheduled", "TaskCompleted", "ExecutionCompleted"]
    assert kinds_of(history) == expected
    assert delays(history) == [10_000, 20_000]
    before = [row.previous for row in rows_of(history, ev.TaskScheduled)]
    assert [None if one is None else (one.attempts, one.first_task_id) for one in before] == [None, (1, 1), (2, 1)]
    replay_strictly(hub, history)


@pytest.mark.parametrize(
    ("policy", "kind", "attempts"),
    [
        (SOON, "reset", 3),
        (SOON, "never again", 1),
        (RetryPolicy(max_attempts=3, first_interval=MS, retry_on=OSError), "reset", 3),
        (RetryPolicy(max_attempts=3, first_interval=MS, retry_on=(KeyError, "ConnectionError")), "reset", 3),
        (RetryPolicy(max_attempts=3, first_interval=MS, retry_on="builtins.ConnectionResetError"), "reset", 3),
        (RetryPolicy(max_attempts=3, first_interval=MS, retry_on=OSError), "value", 1),
        (RetryPolicy(max_attempts=3, first_interval=MS, non_retryable=ConnectionError), "reset", 1),
        (RetryPolicy(max_attempts=3, first_interval=MS, non_retryable="ValueError"), "value", 1),
        (
            RetryPolicy(max_attempts=3, first_interval=MS, handler=lambda error: "failure 1" in error.message),
            "value",
            2,
        ),
        (RetryPolicy(max_attempts=3, first_interval=MS, retry_on=OSError, handler=lambda _: False), "reset", 1),
    ],
)
async def test_which_failures_are_tried_again(hub_url: str, policy: RetryPolicy, kind: str, attempts: int) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)

    @hub.orchestrator
    async def persistent(ctx: OrchestrationContext, kind: str) -> None:
        await flaky.activity.options(retry=policy)("it", 99, kind)

    async with hub.worker():
        handle = await hub.start(persistent, kind)
        with pytest.raises(OrchestrationFailedError, match=f"failure {attempts}") as caught:
            await handle.result(DEADLINE)
        scheduled = rows_of(await handle.history(), ev.TaskScheduled)
    assert caught.value.details.is_caused_by(ERRORS[kind])
    assert flaky.calls["it"] == len(scheduled) == attempts


async def test_an_activity_may_say_how_long_to_wait(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    calls: list[int] = []

    @hub.activity
    async def throttled() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise RetryableError("too many requests", retry_after=0.05)
        return "let in"

    @hub.orchestrator
    async def polite(ctx: OrchestrationContext) -> str:
        return await throttled.options(retry=RetryPolicy(first_interval=timedelta(hours=1), jitter=0.5))()

    async with hub.worker():
        handle = await hub.start(polite)
        assert await handle.result(DEADLINE) == "let in"
        assert delays(await handle.history()) == [50_000]


async def test_no_attempt_begins_after_the_policys_timeout(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)
    policy = RetryPolicy(max_attempts=99, first_interval=200 * MS, backoff=1, timeout=1000 * MS)

    @hub.orchestrator
    async def bounded(ctx: OrchestrationContext) -> None:
        await flaky.activity.options(retry=policy)("it", 99)

    async with hub.worker():
        handle = await hub.start(bounded)
        with pytest.raises(OrchestrationFailedError, match=r"failure \d"):
            await handle.result(DEADLINE)
        begun = [row.timestamp for row in rows_of(await handle.history(), ev.TaskScheduled)]
    assert 2 <= len(begun) <= 6
    assert begun[-1] - begun[0] <= 1_000_000


async def test_the_timeout_counts_the_time_without_a_worker(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)
    policy = RetryPolicy(max_attempts=99, first_interval=1000 * MS, backoff=1, timeout=1200 * MS)

    @hub.orchestrator
    async def bounded(ctx: OrchestrationContext) -> None:
        await flaky.activity.options(retry=policy)("it", 99)

    async with hub:
        async with hub.worker():
            handle = await hub.start(bounded)
            history = await until(handle.history, lambda h: rows_of(h, ev.TimerCreated) != [])
        begun = len(rows_of(await handle.history(), ev.TaskScheduled))
        too_late = history[0].timestamp + 1_210_000
        await until(lambda: datetime.now(UTC).timestamp() * 1_000_000, lambda now: now > too_late)
        async with hub.worker():
            with pytest.raises(OrchestrationFailedError, match=f"failure {begun}"):
                await handle.result(DEADLINE)
            history = await handle.history()
    assert len(rows_of(history, ev.TimerFired)) == begun
    assert flaky.calls["it"] == len(rows_of(history, ev.TaskScheduled)) == begun


async def test_jitter_is_the_same_when_the_worker_changes_in_the_middle(hub_url: str) -> None:
    policy = RetryPolicy(max_attempts=7, first_interval=50 * MS, backoff=1, jitter=0.5)

    def deployed() -> TaskHub:
        hub = TaskHub(hub_url)
        activity = Flaky(hub).activity  # counts from nought in each process, so it goes on failing

        @hub.orchestrator
        async def persistent(ctx: OrchestrationContext) -> float:
            with pytest.raises(ActivityFailedError):
                await activity.options(retry=policy)("it", 99)
            return ctx.random.random()  # the user's own numbers are not shifted

        return hub

    first, second = deployed(), deployed()
    async with first.worker():
        handle = await first.start("persistent", instance_id="jittery")
        await until(handle.history, lambda h: len(rows_of(h, ev.TaskFailed)) >= 2)
    async with second.worker():
        assert 0 <= await second.get("jittery").result(DEADLINE) < 1
        history = await second.get("jittery").history()
    drawn = delays(history)
    assert len(set(drawn)) == 6
    assert all(25_000 <= delay <= 75_000 for delay in drawn)
    replay_strictly(second, history)  # in one piece, it draws the same numbers


async def test_an_attempt_that_times_out_is_tried_again(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    calls: list[int] = []

    @hub.activity(timeout=50 * MS, retry=RetryPolicy(first_interval=MS, retry_on=ActivityTimeoutError))
    async def slow_at_first() -> int:
        calls.append(1)
        if len(calls) < 3:
            await asyncio.Event().wait()
        return len(calls)

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext) -> int:
        return await slow_at_first()

    async with hub.worker():
        handle = await hub.start(waits)
        assert await handle.result(DEADLINE) == 3
        failed = rows_of(await handle.history(), ev.TaskFailed)
    assert [row.failure.error_type.rpartition(".")[2] for row in failed] == ["ActivityTimeoutError"] * 2


async def test_retried_calls_in_a_gather_do_not_wait_for_each_other(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)

    @hub.orchestrator
    async def several(ctx: OrchestrationContext) -> list[int | str]:
        retried = flaky.activity.options(retry=RetryPolicy(max_attempts=4, first_interval=5 * MS, jitter=0.9))
        found = await asyncio.gather(*[retried(str(n), n) for n in range(6)], return_exceptions=True)
        return [one if isinstance(one, int) else type(one).__name__ for one in found]

    async with hub.worker():
        handle = await hub.start(several)
        assert await handle.result(DEADLINE) == [1, 2, 3, 4, "ActivityFailedError", "ActivityFailedError"]
        replay_strictly(hub, await handle.history())
    assert flaky.calls == {"0": 1, "1": 2, "2": 3, "3": 4, "4": 4, "5": 4}


@pytest.mark.parametrize("by", ["task", "handle"])
async def test_a_cancellation_ends_a_delay(hub_url: str, by: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)

    @hub.orchestrator
    async def gives_up(ctx: OrchestrationContext) -> str:
        policy = RetryPolicy(first_interval=timedelta(hours=1))
        task = asyncio.ensure_future(flaky.activity.options(retry=policy)("it", 99))
        await asyncio.wait([asyncio.ensure_future(ctx.wait_for_external_event("enough"))])
        task.cancel()
        await asyncio.wait([task])
        return "given up" if task.cancelled() else "not reached"

    async with hub.worker():
        handle = await hub.start(gives_up)
        await until(handle.history, lambda h: rows_of(h, ev.TimerCreated) != [])
        if by == "task":
            await handle.raise_event("enough")
            assert await handle.result(DEADLINE) == "given up"
            assert given_up(await handle.history()) == ["TimerCreated"]
        else:
            await handle.cancel("enough")
            with pytest.raises(OrchestrationCanceledError, match="enough"):
                await handle.result(DEADLINE)
        assert rows_of(await handle.history(), ev.TimerFired) == []
    assert flaky.calls["it"] == 1


async def test_children_are_retried_by_the_same_rules(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    begun: Counter[str] = Counter()

    @hub.orchestrator
    async def child(ctx: OrchestrationContext, kind: str) -> int:
        begun[kind] += 1
        if begun[kind] < 3:
            raise ERRORS[kind]("not yet")
        return begun[kind]

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[Any]:
        first: int = await ctx.call_sub_orchestrator_with_retry("child", SOON, "reset")
        try:
            await child.options(retry=SOON)("never again")
        except SubOrchestrationFailedError as error:
            assert error.details.non_retryable
        try:
            await child.options(retry=RetryPolicy(retry_on=OSError))("value")
        except SubOrchestrationFailedError as error:
            return [first, error.details.error_type]
        return ["not reached"]

    async with hub.worker():
        handle = await hub.start(parent)
        assert await handle.result(DEADLINE) == [3, "builtins.ValueError"]
        history = await handle.history()
    assert begun == {"reset": 3, "never again": 1, "value": 1}
    ids = [row.instance_id for row in rows_of(history, ev.SubOrchestrationInstanceCreated)]
    assert len(set(ids)) == len(ids) == 5
    assert delays(history) == [10_000, 20_000]
    replay_strictly(hub, history)


async def test_what_a_handler_raises_is_raised_at_the_await(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    flaky = Flaky(hub)

    def broken(error: FailureDetails) -> bool:
        raise LookupError(f"no rule for {error.error_type}")

    @hub.orchestrator
    async def persistent(ctx: OrchestrationContext) -> str:
        try:
            await flaky.activity.options(retry=RetryPolicy(handler=broken))("it", 1)
        except LookupError as error:
            return str(error)
        return "not reached"

    async with hub.worker():
        handle = await hub.start(persistent)
        assert await handle.result(DEADLINE) == "no rule for builtins.ConnectionResetError"
