"""Activities in queues: limits, priorities, cancelling, retries and restarts, on every store, in one process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from time import monotonic

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    OrchestrationContext,
    OrchestrationFailedError,
    RegistrationError,
    Registry,
    RetryPolicy,
    Settings,
    TaskHub,
    UnknownFunctionError,
)
from durable.core import events as ev
from durable.queues import ActivityQueue
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from tests.e2e.waiting import until

DEADLINE = 30


class Gauge:
    """How many run at once, by key."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    @contextmanager
    def measure(self, key: str) -> Iterator[None]:
        for each in (key, "all"):
            self.now[each] += 1
            self.most[each] = max(self.most[each], self.now[each])
        try:
            yield
        finally:
            for each in (key, "all"):
                self.now[each] -= 1


async def test_a_queued_activity_runs_and_history_says_where(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    hub.queue("gpu")

    @hub.activity(queue="gpu", priority=7)
    async def render(frame: int) -> str:
        return f"{frame} by {ActivityContext.current().attempt}"

    @hub.orchestrator
    async def film(ctx: OrchestrationContext, frames: int) -> list[str]:
        return list(await asyncio.gather(*[render.options(key=f"k{n}")(n) for n in range(frames)]))

    async with hub.worker():
        handle = await hub.start(film, 5)
        assert await handle.result(DEADLINE) == [f"{n} by 1" for n in range(5)]
        scheduled = [event for event in await handle.history() if isinstance(event, ev.TaskScheduled)]
    assert [event.queue for event in scheduled] == [ev.QueuePlace("gpu", 7, f"k{n}") for n in range(5)]


async def test_limits_hold(hub_url: str) -> None:
    hub, gauge = TaskHub(hub_url), Gauge()
    hub.queue("narrow", concurrency=4, per_key=2)
    hub.queue("here", worker_concurrency=3)

    @hub.activity
    async def work(key: str) -> None:
        with gauge.measure(key):
            await asyncio.sleep(0.05)

    @hub.orchestrator
    async def many(ctx: OrchestrationContext, queue: str) -> None:
        keys = [f"{queue}-{n % 3}" for n in range(12)]
        await asyncio.gather(*[work.options(queue=queue, key=key)(key) for key in keys])

    async with hub.worker():
        await (await hub.start(many, "narrow")).result(DEADLINE)
        assert 1 < gauge.most["all"] <= 4
        assert {gauge.most[f"narrow-{n}"] for n in range(3)} <= {1, 2}
        gauge.most.clear()
        await (await hub.start(many, "here")).result(DEADLINE)
        assert 1 < gauge.most["all"] <= 3


async def test_the_rate_is_kept(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    hub.queue("slow", rate=10, burst=2)
    starts: list[float] = []

    @hub.activity(queue="slow")
    async def work() -> None:
        starts.append(monotonic())

    @hub.orchestrator
    async def many(ctx: OrchestrationContext) -> None:
        await asyncio.gather(*[work() for _ in range(17)])

    async with hub.worker():
        await (await hub.start(many)).result(DEADLINE)
    assert starts[-1] - starts[0] > 0.5  # it takes 1.5 s from claim to claim; each may start a little later


async def test_the_urgent_go_first_and_waiting_counts() -> None:
    store = MemoryStore()
    hub = TaskHub(MemoryBackend(store))
    hub.queue("one", concurrency=1)
    order: list[int] = []

    @hub.activity(queue="one")
    async def work(number: int) -> None:
        order.append(number)

    @hub.orchestrator
    async def many(ctx: OrchestrationContext) -> None:
        await asyncio.gather(*[work.options(priority=n % 3)(n) for n in range(9)])

    async with hub.worker(queues=[]):
        handle = await hub.start(many)
        await until(lambda: len(store.queues.tasks), lambda waiting: waiting == 9)
    async with hub.worker():
        await handle.result(DEADLINE)
    assert [number % 3 for number in order] == [2, 2, 2, 1, 1, 1, 0, 0, 0]

    ageing = ActivityQueue("q", ageing=timedelta(minutes=1))
    minute = 60_000_000
    assert ageing.rank(0, 0) < ageing.rank(1, minute + 1)  # it has waited for more than a step
    assert ageing.rank(1, minute - 1) < ageing.rank(0, 0)
    never = ActivityQueue("q")
    assert never.rank(1, 1000 * minute) < never.rank(0, 0)


async def test_failures_retries_timeouts_and_completion_from_outside(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    hub.queue("q")
    tokens: list[str] = []
    quick = RetryPolicy(max_attempts=3, first_interval=timedelta(milliseconds=5))

    @hub.activity(queue="q", retry=quick)
    async def third_time() -> int:
        attempt = ActivityContext.current().attempt
        if attempt < 3:
            raise ValueError(f"attempt {attempt}")
        return attempt

    @hub.activity(queue="q", timeout=timedelta(seconds=0.05))
    async def endless() -> None:
        await asyncio.sleep(3600)

    @hub.activity(queue="q")
    def later() -> str:
        context = ActivityContext.current()
        tokens.append(context.task_token)
        return context.complete_later()  # type: ignore[no-any-return]

    @hub.orchestrator
    async def all_of_it(ctx: OrchestrationContext) -> list[object]:
        found: list[object] = [await third_time()]
        try:
            await endless()
        except ActivityFailedError as error:
            found.append(error.details.error_type.rpartition(".")[2])
        return [*found, await later()]

    async with hub.worker():
        handle = await hub.start(all_of_it)
        await until(lambda: tokens, bool)
        await until(handle.history, lambda events: any(isinstance(event, ev.TaskDeferred) for event in events))
        await hub.complete_activity(tokens[0], "outside")
        assert await handle.result(DEADLINE) == [3, "ActivityTimeoutError", "outside"]


async def test_a_cancelled_call_leaves_its_queue_and_a_running_one_is_told(hub_url: str) -> None:
    hub = TaskHub(hub_url, settings=Settings(lease_time=1.0))
    hub.queue("one", concurrency=1)
    seen: list[str] = []

    @hub.activity(queue="one")
    async def work(name: str) -> None:
        seen.append(name)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append(f"{name} is cancelled")
            raise

    @hub.activity(queue="one")
    async def last() -> str:
        return "done"

    @hub.orchestrator
    async def gives_up(ctx: OrchestrationContext) -> str:
        calls = [asyncio.ensure_future(work("first")), asyncio.ensure_future(work("second"))]
        await ctx.wait_for_external_event("enough")
        for call in calls:
            call.cancel()
        return await last()

    async with hub.worker():
        handle = await hub.start(gives_up)
        await until(lambda: seen, bool)
        await handle.raise_event("enough")
        assert await handle.result(DEADLINE) == "done"
    assert seen == ["first", "first is cancelled"]


async def test_the_end_of_an_instance_empties_its_place_in_the_queue(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    hub.queue("one", concurrency=1)
    seen: list[str] = []

    @hub.activity(queue="one")
    async def work(name: str) -> str:
        seen.append(name)
        return name

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext, name: str) -> str:
        return await work(name)

    async with hub.worker(queues=[]):
        gone = await hub.start(waits, "gone")
        stays = await hub.start(waits, "stays")
        await until(gone.history, lambda events: any(isinstance(event, ev.TaskScheduled) for event in events))
        await gone.terminate("enough")
        await until(gone.status, lambda status: status.runtime_status.is_terminal)
    async with hub.worker():
        assert await stays.result(DEADLINE) == "stays"
    assert seen == ["stays"]


async def test_a_worker_that_stops_ends_what_runs_and_gives_back_the_rest(hub_url: str) -> None:
    hub = TaskHub(hub_url, settings=Settings(drain_time=0.3))
    hub.queue("q")
    attempts: list[int] = []

    @hub.activity(queue="q")
    async def work() -> int:
        attempts.append(ActivityContext.current().attempt)
        if len(attempts) == 1:
            await asyncio.sleep(3600)
        return len(attempts)

    @hub.orchestrator
    async def one(ctx: OrchestrationContext) -> int:
        return await work()

    async with hub.worker():
        handle = await hub.start(one)
        await until(lambda: attempts, bool)
    began = monotonic()
    async with hub.worker():
        assert await handle.result(DEADLINE) == 2
    assert monotonic() - began < 5  # not when the claim would have expired
    assert attempts == [1, 1]  # the worker did not die of it


async def test_an_unknown_queue_is_an_error_where_it_is_named() -> None:
    hub = TaskHub("memory://")
    hub.queue("graphics")

    @hub.activity
    async def work() -> None:
        pass

    @hub.orchestrator
    async def misspelt(ctx: OrchestrationContext) -> None:
        await work.options(queue="grafics")()

    with pytest.raises(UnknownFunctionError, match="no queue is registered as 'gpu'; registered: graphics"):
        async with hub.worker(queues=["gpu"]):
            pass
    async with hub.worker():
        with pytest.raises(OrchestrationFailedError, match="did you mean 'graphics'"):
            await (await hub.start(misspelt)).result(DEADLINE)
    hub.activity(name="other", queue="nowhere")(work.fn)
    with pytest.raises(UnknownFunctionError, match="'nowhere'"):
        async with hub.worker():
            pass


def test_queues_are_checked_when_they_are_declared() -> None:
    registry = Registry()
    registry.queue("a", concurrency=1)
    registry.queue("a", concurrency=1)
    with pytest.raises(RegistrationError, match="with other limits"):
        registry.queue("a", concurrency=2)
    for limits in ({"rate": 0}, {"concurrency": -1}, {"burst": 2}, {"ageing": timedelta(0)}):
        with pytest.raises(RegistrationError, match=next(iter(limits))):
            registry.queue("b", **limits)
    for name in ("", " a", "a,b", "a\n"):
        with pytest.raises(RegistrationError, match="cannot name a queue"):
            registry.queue(name)
    with pytest.raises(ValueError, match="need a queue"):
        registry.activity(name="x", priority=1)(print)
    with pytest.raises(ValueError, match="from -1000 to 1000"):
        registry.activity(name="x", queue="a", priority=1001)(print)


def test_ranks_stay_in_range() -> None:
    ranks = [ActivityQueue("q").rank(priority, 1_800_000_000_000_000) for priority in (1000, 1, 0, -1, -1000)]
    assert all(first < second for first, second in pairwise(ranks))
    assert max(map(abs, ranks)) < 2**63
