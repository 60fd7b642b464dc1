"""Workers that go, come back, quarrel, or lose their store: what happens to the instances. In virtual time."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    BackendUnavailable,
    InstanceStatus,
    OrchestrationContext,
    Registry,
    RuntimeStatus,
    Settings,
    TaskHub,
)
from durable.core.events import TaskCompleted, TaskFailed, TaskScheduled
from durable.testing.faults import Fault, FaultyBackend, Step, scripted_plan
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from durable.testing.virtual_loop import VirtualLoop
from durable.worker.activities import ActivityRunner, Attempt, Outcome
from tests.chaos.checker import findings
from tests.chaos.stores import read_memory

LEASE_TIME = 2.0
SETTINGS = Settings(partitions=4, lease_time=LEASE_TIME, blocked_turn=inf, drain_time=10.0)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop whose time costs nothing."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def virtual_clock() -> int:
    return 1_700_000_000_000_000 + round(asyncio.get_running_loop().time() * 1_000_000)


def make_hub(store: MemoryStore | MemoryBackend | FaultyBackend, registry: Registry, **changes: Any) -> TaskHub:
    backend = MemoryBackend(store) if isinstance(store, MemoryStore) else store
    hub = TaskHub(backend, settings=replace(SETTINGS, **changes), clock=virtual_clock)
    hub.include(registry)
    return hub


async def abandon(hub: TaskHub) -> None:
    """What a kill does: the worker is gone, and the store is as it was."""
    assert hub._worker is not None
    await hub._worker.abandon()


def silence(hub: TaskHub) -> None:
    """Its worker's next heartbeat, which would tell it that a lease is lost, comes later than the end of the test."""
    assert hub._worker is not None
    hub._worker._partitions._interval = inf


def seize(store: MemoryStore, hub: TaskHub) -> None:
    """Its worker gets the lease on the only partition, whoever had it."""
    assert hub._worker is not None
    store.leases[0] = replace(store.leases[0], owner=hub._worker.worker_id)


def deaf_hub(store: MemoryStore, registry: Registry) -> TaskHub:
    """A hub that is given no hints."""
    plan = scripted_plan({"watch": [Step(Fault.FAIL_BEFORE)] * 1000})
    return make_hub(FaultyBackend(MemoryBackend(store), plan), registry, partitions=1)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def status_with_problem(hub: TaskHub, instance_id: str) -> InstanceStatus:
    async with asyncio.timeout(60):
        while (status := await hub.get(instance_id).status()).problem is None:
            await asyncio.sleep(0.1)
    return status


def assert_sound(store: MemoryStore) -> None:
    assert findings(read_memory(store)) == []


# --- takeover ----------------------------------------------------------------------------


@virtual
async def test_a_second_hub_takes_over_when_the_first_is_gone() -> None:
    registry, store, attempts = Registry(), MemoryStore(), list[int]()

    @registry.activity
    async def once(value: int) -> int:
        attempts.append(ActivityContext.current().attempt)
        if len(attempts) == 1:
            await asyncio.sleep(inf)
        return value + 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        await asyncio.sleep(1)
        value = await once(1)
        await asyncio.sleep(1)
        return await once(value)

    first, second = make_hub(store, registry), make_hub(store, registry)
    async with second:
        async with first.worker():
            handle = await first.start(main, instance_id="one")
            await until(lambda: attempts == [1])
            await abandon(first)
        gone_at = asyncio.get_running_loop().time()
        async with second.worker():
            await until(lambda: len(attempts) == 2)
            assert asyncio.get_running_loop().time() - gone_at <= 2 * LEASE_TIME
            assert await second.get("one").result(10) == 3
            recorded = [
                event.attempt for event in await second.get("one").history() if isinstance(event, TaskCompleted)
            ]
    assert attempts == [1, 2, 1]
    assert recorded == [2, 1]
    assert handle.instance_id == "one"
    assert_sound(store)


@virtual
@pytest.mark.parametrize("settles_on_commit", [True, False])
async def test_what_an_activity_reported_once_survives_its_worker(settles_on_commit: bool) -> None:
    """Also when the record of the turn that scheduled it is stored after the report."""
    registry, store, details = Registry(), MemoryStore(), list[object]()

    @registry.activity
    async def report() -> None:
        context = ActivityContext.current()
        details.append(context.heartbeat_details)
        if len(details) == 1:
            context.heartbeat("half")
            await asyncio.sleep(inf)

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await report()

    first, second = (make_hub(MemoryBackend(store, settles_on_commit=settles_on_commit), registry) for _ in range(2))
    async with first.worker():
        await first.start(main, instance_id="one")
        await asyncio.sleep(10)
        await abandon(first)
    async with second.worker():
        await second.get("one").result(60)
    assert details == [None, "half"]


@virtual
async def test_two_owners_make_one_history() -> None:
    """Both believe that the instance is theirs, run its activity, and commit its result at the same time."""
    registry, store, gate = Registry(), MemoryStore(), asyncio.Event()
    attempts: list[int] = []

    @registry.activity
    async def gated(value: int) -> int:
        attempts.append(ActivityContext.current().attempt)
        await gate.wait()
        return value + 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> list[int]:
        return [await gated(value) for value in range(5)]

    first, second = make_hub(store, registry, partitions=1), make_hub(store, registry, partitions=1)
    async with first.worker(), second.worker():
        await first.start(main, instance_id="one")
        await until(lambda: attempts == [1])
        owner = next(hub for hub in (first, second) if hub._worker is not None and hub._worker.owns("one"))
        other = second if owner is first else first
        assert owner._worker is not None
        silence(owner)
        await asyncio.sleep(LEASE_TIME / 2)
        seize(store, other)
        await until(lambda: attempts == [1, 2])
        assert owner._worker.owns("one")
        gate.set()
        assert await first.get("one").result(30) == [1, 2, 3, 4, 5]
        owner._worker._partitions._interval = 0.5
        results = [event for event in await first.get("one").history() if isinstance(event, TaskCompleted)]
    assert len(results) == 5
    assert_sound(store)


@virtual
async def test_a_graceful_stop_hands_over_without_extra_attempts() -> None:
    registry, store = Registry(), MemoryStore()
    executed: Counter[str] = Counter()

    @registry.activity
    async def slow(value: int) -> int:
        executed[ActivityContext.current().idempotency_key] += 1
        await asyncio.sleep(1)
        return value

    @registry.orchestrator
    async def main(ctx: OrchestrationContext, width: int) -> list[int]:
        return await asyncio.gather(*(slow(value) for value in range(width)))

    first, second = make_hub(store, registry, max_activities=2), make_hub(store, registry)
    async with second:
        async with first.worker():
            for number in range(3):
                await first.start(main, 4, instance_id=f"job-{number}")
            await until(lambda: len(executed) == 2)
        assert len(executed) == 2  # the others did not start any more
        async with second.worker():
            began = asyncio.get_running_loop().time()
            results = [await second.get(f"job-{number}").result(30) for number in range(3)]
            assert asyncio.get_running_loop().time() - began < LEASE_TIME  # no lease had to expire
            history = [event for number in range(3) for event in await second.get(f"job-{number}").history()]
    assert results == [[0, 1, 2, 3]] * 3
    assert set(executed.values()) == {1}
    assert {event.attempt for event in history if isinstance(event, TaskCompleted)} == {1}
    assert_sound(store)


@virtual
async def test_a_hand_over_that_the_store_does_not_confirm_loses_no_work() -> None:
    registry, store = Registry(), MemoryStore()

    @registry.activity
    async def slow(value: int) -> int:
        await asyncio.sleep(0.3)
        return value

    @registry.orchestrator
    async def main(ctx: OrchestrationContext, count: int) -> int:
        return sum([await slow(value) for value in range(count)])

    failing = [Step(Fault.FAIL_BEFORE), Step(Fault.FAIL_AFTER), Step(Fault.FAIL_BEFORE)]
    plan = scripted_plan({"release_partitions": failing, "annotate": failing})
    first, second = make_hub(FaultyBackend(MemoryBackend(store), plan), registry), make_hub(store, registry)
    async with first.worker(max_activities=2):
        for number in range(12):
            await first.start(main, 10, instance_id=f"job-{number}")
        async with second.worker():
            # It leaves again while the first tries to give up its surplus.
            await asyncio.sleep(1.0)
        for number in range(12):
            assert await first.get(f"job-{number}").result(60) == 45
    assert_sound(store)


# --- instances that cannot go on -----------------------------------------------------------


@virtual
async def test_changed_code_parks_the_instance_until_it_is_restored(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    caplog.set_level(logging.CRITICAL, "durable.worker")

    def version(name: str) -> Registry:
        registry = Registry()

        @registry.activity
        async def before() -> str:
            return "before"

        @registry.activity
        async def after() -> str:
            return "after"

        @registry.orchestrator
        async def main(ctx: OrchestrationContext) -> str:
            done = await (before() if name == "old" else after())
            await asyncio.sleep(5)
            return done

        return registry

    old = make_hub(store, version("old"))
    async with old.worker():
        await old.start("main", instance_id="one")
        await until(lambda: store.records["one"].rev == 2)
    changed = make_hub(store, version("new"))
    async with changed.worker():
        status = await status_with_problem(changed, "one")
        assert status.runtime_status is RuntimeStatus.RUNNING
        assert status.problem is not None
        assert status.problem.startswith("NonDeterminismError: ")
        assert "expected TaskScheduled 'before'" in status.problem
        assert "got TaskScheduled 'after'" in status.problem
        await asyncio.sleep(30)
        assert store.records["one"].rev == 2
    restored = make_hub(store, version("old"))
    async with restored.worker():
        assert await restored.get("one").result(60) == "before"
        assert (await restored.get("one").status()).problem is None
    assert_sound(store)


@pytest.mark.parametrize("turns_before", [0, 2])
@virtual
async def test_a_stuck_orchestrator_is_parked_with_the_line_it_waits_at(
    turns_before: int, caplog: pytest.LogCaptureFixture
) -> None:
    registry, store = Registry(), MemoryStore()
    caplog.set_level(logging.CRITICAL, "durable.worker")

    @registry.activity
    async def step() -> None: ...

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        for _ in range(turns_before):
            await step()
        await asyncio.Event().wait()  # the line

    hub = make_hub(store, registry)
    async with hub.worker():
        await hub.start(main, instance_id="one")  # the start is confirmed all the same
        status = await status_with_problem(hub, "one")
    assert status.runtime_status in (RuntimeStatus.RUNNING, RuntimeStatus.PENDING)
    assert status.problem is not None
    assert status.problem.startswith("StuckOrchestrationError: ")
    lines = inspect.getsource(sys.modules[__name__]).splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith("wait()  # the line"))
    assert f"test_recovery.py:{line} in " in status.problem


@virtual
async def test_an_activity_that_kills_its_workers_fails_as_poison(caplog: pytest.LogCaptureFixture) -> None:
    registry, store, attempts = Registry(), MemoryStore(), list[int]()

    @registry.activity
    async def deadly() -> None:
        attempts.append(ActivityContext.current().attempt)
        await asyncio.sleep(inf)

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        try:
            await deadly()
        except ActivityFailedError as error:
            return error.details.error_type
        return "no failure"

    for round_ in range(3):
        hub = make_hub(store, registry, max_deliveries=3)
        async with hub.worker():
            if round_ == 0:
                await hub.start(main, instance_id="one")
            await until(lambda wanted=round_ + 1: len(attempts) == wanted)  # type: ignore[misc]
            await abandon(hub)
    hub = make_hub(store, registry, max_deliveries=3)
    async with hub.worker():
        assert await hub.get("one").result(60) == "durable.core.errors.PoisonActivityError"
        failed = [event for event in await hub.get("one").history() if isinstance(event, TaskFailed)]
    assert attempts == [1, 2, 3]
    assert [event.attempt for event in failed] == [4]
    assert_sound(store)


# --- the sticky cache ------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [1, 3])
@virtual
async def test_eviction_under_load_runs_nothing_twice(cache: int) -> None:
    registry, store = Registry(), MemoryStore()
    executed: Counter[str] = Counter()

    @registry.activity
    async def step(value: int) -> int:
        executed[ActivityContext.current().idempotency_key] += 1
        await asyncio.sleep(0.01 * (value % 4))
        return value + 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext, value: int) -> int:
        for _ in range(4):
            value, _, _ = await asyncio.gather(step(value), step(value + 1), asyncio.sleep(0.015))
        return value

    hub = make_hub(store, registry, cache_instances=cache)
    async with hub.worker():
        for number in range(20):
            await hub.start(main, number, instance_id=f"job-{number}")
        assert [await hub.get(f"job-{n}").result(60) for n in range(20)] == [n + 4 for n in range(20)]
    assert len(executed) == 20 * 8
    assert set(executed.values()) == {1}
    assert all(record.recoveries == 0 for record in store.records.values())
    assert_sound(store)


@pytest.mark.parametrize("cache", [1, 10])
@virtual
async def test_a_timer_fires_while_an_activity_runs_however_far_ahead_it_is(cache: int) -> None:
    registry, store = Registry(), MemoryStore()

    @registry.activity
    async def endless() -> None:
        await asyncio.sleep(inf)

    @registry.orchestrator
    async def main(ctx: OrchestrationContext, seconds: float) -> float:
        before = ctx.now
        try:
            await asyncio.wait_for(endless(), seconds)
        except TimeoutError:
            return (ctx.now - before).total_seconds()
        return 0.0

    hub = make_hub(store, registry, cache_instances=cache)
    async with hub.worker():
        handles = [await hub.start(main, seconds) for seconds in (0.5, 70.0, 3600.0)]
        waited = [await handle.result(4000) for handle in handles]
    assert [round(seconds) for seconds in waited] == [0, 70, 3600]
    assert_sound(store)


# --- the store -------------------------------------------------------------------------------


@virtual
async def test_an_outage_of_the_store_loses_nothing_and_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    registry, store, out = Registry(), MemoryStore(), asyncio.Event()
    caplog.set_level(logging.CRITICAL, "durable.worker")
    executed: Counter[str] = Counter()

    @registry.activity
    async def step(value: int) -> int:
        executed[ActivityContext.current().idempotency_key] += 1
        await asyncio.sleep(0.05)
        return value + 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        value = 0
        for _ in range(40):
            value = await step(value)
        return value

    def plan(operation: str) -> Step:
        return Step(Fault.FAIL_BEFORE if out.is_set() else Fault.NONE)

    hub = make_hub(FaultyBackend(MemoryBackend(store), plan), registry, start_timeout=2.0)
    async with hub.worker():
        handles = [await hub.start(main) for _ in range(5)]
        await asyncio.sleep(0.5)
        assert hub.healthy
        out.set()
        await until(lambda: not hub.healthy, seconds=LEASE_TIME)
        with pytest.raises(BackendUnavailable):
            await hub.start(main)
        await asyncio.sleep(20)
        assert not hub.healthy
        out.clear()
        await until(lambda: hub.healthy, seconds=5)
        assert [await handle.result(60) for handle in handles] == [40] * 5
    assert set(executed.values()) == {1}


@virtual
async def test_an_idle_worker_too_shows_that_its_store_is_away() -> None:
    out = asyncio.Event()
    backend = FaultyBackend(MemoryBackend(), lambda operation: Step(Fault.FAIL_BEFORE if out.is_set() else Fault.NONE))
    hub = make_hub(backend, Registry())
    async with hub.worker():
        out.set()
        await until(lambda: not hub.healthy, seconds=LEASE_TIME)
        out.clear()
        await until(lambda: hub.healthy, seconds=LEASE_TIME)


@virtual
async def test_a_load_that_breaks_off_leaves_no_code_behind(caplog: pytest.LogCaptureFixture) -> None:
    """The store fails after the replay, before the instance is in memory: its half-loaded code must not be heard of."""
    registry, store, ended = Registry(), MemoryStore(), list[str]()

    @registry.activity
    async def endless(name: str) -> None:
        if ActivityContext.current().attempt == 1:
            await asyncio.sleep(inf)

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        try:
            await endless("x")
        finally:
            ctx.logger.error("the end")
            ended.append("here")

    first = make_hub(store, registry)
    async with first.worker():
        await first.start(main, instance_id="one")
        await abandon(first)
    ended.clear()
    caplog.clear()
    plan = scripted_plan({"annotate": [Step(Fault.FAIL_BEFORE)] * 5})
    second = make_hub(FaultyBackend(MemoryBackend(store), plan), registry)
    async with second.worker():
        await until(lambda: "one" in store.records and store.records["one"].status.is_terminal)
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "durable.orchestrator"] == ["the end"]
    assert_sound(store)


@virtual
async def test_a_worker_that_met_a_broken_store_stops_at_once_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenBackend(MemoryBackend):
        async def commit(self, commits: Any) -> Any:
            raise ZeroDivisionError("the store is broken")

    registry = Registry()

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await asyncio.sleep(1)

    backend = BrokenBackend()
    hub = TaskHub(backend, settings=replace(SETTINGS, start_timeout=1.0), clock=virtual_clock)
    hub.include(registry)
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(ZeroDivisionError, match="the store is broken"))
        await stack.enter_async_context(hub.worker())
        assert hub.healthy
        with pytest.raises(BackendUnavailable):
            await hub.start(main)
        assert not hub.healthy
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1.0
    assert backend.store.leases == {}
    assert backend.store.workers == {}
    assert [record.levelname for record in caplog.records if record.name == "durable.worker"] == ["CRITICAL"]


@virtual
async def test_what_a_former_owner_commits_late_is_found_by_the_new_one() -> None:
    """The new owner has looked for work before it was there, and the hint is lost."""
    registry, store = Registry(), MemoryStore()

    @registry.activity
    async def step() -> int:
        await asyncio.sleep(1)
        return 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        return await step()

    first, second = make_hub(store, registry, partitions=1), deaf_hub(store, registry)
    async with first.worker():
        silence(first)
        await asyncio.sleep(LEASE_TIME / 2)
        async with second.worker():
            seize(store, second)
            await until(lambda: second._worker is not None and second._worker.owns("one"))
            await first.start(main, instance_id="one")
            await abandon(first)
            assert await second.get("one").result(60) == 1
    assert_sound(store)


@virtual
async def test_a_copy_that_a_former_owner_has_left_behind_is_noticed() -> None:
    """The new owner has it in memory, waiting for an event that the former one took in and marked."""
    registry, store, attempts = Registry(), MemoryStore(), Counter[str]()

    @registry.activity
    async def wait(name: str, seconds: float) -> None:
        attempts[name] += 1
        await asyncio.sleep(seconds)

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> str:
        background = asyncio.create_task(wait("long", 1e6))
        await ctx.wait_for_external_event("go")
        await wait("short", 1.0)
        background.cancel()
        return "done"

    first, second = make_hub(store, registry, partitions=1), deaf_hub(store, registry)
    async with first.worker():
        silence(first)
        await first.start(main, instance_id="one")
        await until(lambda: attempts["long"] == 1)
        async with second.worker():
            seize(store, second)
            await until(lambda: attempts["long"] == 2)
            await first.get("one").raise_event("go")
            await until(lambda: attempts["short"] == 1)
            await abandon(first)
            assert await second.get("one").result(120) == "done"
    assert attempts["short"] == 2


@virtual
async def test_an_instance_that_has_two_commits_waiting_is_not_twice_in_a_batch() -> None:
    """Its partition is lost and won back while the store is away: it is loaded, and runs the same turn again."""
    registry, store = Registry(), MemoryStore()
    gate = asyncio.Event()
    batches: list[list[str]] = []

    class SlowBackend(MemoryBackend):
        async def commit(self, commits: Any) -> Any:
            batches.append([commit.checkpoint.instance_id for commit in commits])
            if len(batches) == 2:
                await gate.wait()
            return await super().commit(commits)

    @registry.activity
    async def step() -> int:
        return 1

    @registry.orchestrator
    async def main(ctx: OrchestrationContext, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return await step()

    hub = TaskHub(SlowBackend(store), settings=replace(SETTINGS, partitions=1), clock=virtual_clock)
    hub.include(registry)
    async with hub.worker():
        await hub.start(main, 1.2, instance_id="one")
        blocking = asyncio.create_task(hub.start(main, 0, instance_id="two"))  # its commit holds up all others
        await asyncio.sleep(1.3)  # the timer has fired, its turn waits to be committed
        own = store.leases[0]
        store.leases[0] = replace(own, owner="another")
        await asyncio.sleep(LEASE_TIME / 4)
        store.leases[0] = own
        await asyncio.sleep(LEASE_TIME / 2)
        gate.set()
        await blocking
        assert await hub.get("one").result(10) == 1
        assert await hub.get("two").result(10) == 1
    assert sum(batch.count("one") for batch in batches) > 3  # it did run a turn twice
    assert all(len(set(batch)) == len(batch) for batch in batches)
    assert_sound(store)


@virtual
async def test_an_activity_that_is_cancelled_before_its_first_line_gives_its_place_back() -> None:
    registry, outcomes = Registry(), list[Outcome]()

    @registry.activity
    async def step() -> int:
        return 1

    def attempt(task_id: int) -> Attempt:
        return Attempt("one", "e", TaskScheduled(0, task_id, "step", "[]"), step, 1)

    runner = ActivityRunner(
        "worker",
        virtual_clock,
        lambda _, outcome: outcomes.append(outcome),
        lambda *_: None,
        limit=1,
        threads=1,
        max_deliveries=1,
    )
    for task_id in range(1, 4):
        runner.start(attempt(task_id))
        runner.cancel(("one", "e", task_id))
    runner.start(attempt(4))
    await until(lambda: len(outcomes) == 1, seconds=1)
    assert [outcome.task_id for outcome in outcomes] == [4]
    await runner.close()
