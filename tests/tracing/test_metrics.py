"""Metrics: what each instrument shows of what a hub did, on a file of SQLite, read as a user's reader reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from durable import EntityId, OrchestrationContext, OrchestrationFailedError, Registry, RetryPolicy, TaskHub
from durable.backend import Backend
from durable.backend_url import create_backend
from durable.clock import Clock, system_clock
from durable.testing.faults import Fault, FaultyBackend, Step, scripted_plan
from durable.transactions import TransactionalBackend
from durable_otel import OpenTelemetry, _worker_metrics
from durable_otel._store import timed
from tests.e2e.waiting import until
from tests.tracing.meters import Meters, measured

HOUR = 3_600_000_000
registry = Registry()


@registry.activity
async def speak(fail: bool) -> None:
    if fail:
        raise ValueError("no")


@registry.orchestrator
async def speaker(ctx: OrchestrationContext, fail: bool) -> None:
    await speak(fail)


@registry.orchestrator
async def listener(ctx: OrchestrationContext, events: int) -> int:
    await speak(False)
    for _ in range(events):
        await ctx.wait_for_external_event("go")
    return events


@registry.entity
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> None:
        self.value += amount


@pytest.fixture
def meters() -> Iterator[Meters]:
    made = Meters()
    yield made
    made.provider.shutdown()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hub.db'}"


def hub_at(store: str | Backend, meters: Meters | None = None, clock: Clock = system_clock) -> TaskHub:
    """A hub with what is registered here; measured, where there are meters."""
    hub = TaskHub(store, clock=clock)
    hub.include(registry)
    if meters is not None:
        measured(hub, meters)
    return hub


async def test_instances_and_attempts_are_counted_as_they_end(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    async with hub.worker():
        await (await hub.start(speaker, False, instance_id="counted")).result()
        with pytest.raises(OrchestrationFailedError):
            await (await hub.start(speaker, True, instance_id="failed")).result()
    assert meters.by("durable.instances.started", "orchestration", "origin") == {("speaker", "client"): 2}
    completed = {("speaker", "Completed"): 1, ("speaker", "Failed"): 1}
    assert meters.by("durable.instances.completed", "orchestration", "status") == completed
    assert meters.by("durable.activity.attempts", "activity", "outcome") == {("speak", "error"): 1, ("speak", "ok"): 1}
    for status in ("Completed", "Failed"):
        assert meters.total("durable.instance.duration", orchestration="speaker", status=status) == 1
    assert meters.total("durable.activity.duration", activity="speak", outcome="ok") == 1
    assert meters.total("durable.activity.queue_time", activity="speak") == 2


async def test_an_attempt_that_died_with_its_worker_is_counted_by_the_one_that_took_over(
    url: str, meters: Meters
) -> None:
    first, second = TaskHub(url), TaskHub(url)
    measured(second, meters)
    begun = asyncio.Event()

    @first.activity(name="work")
    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    @second.activity(name="work")
    async def works() -> None: ...

    @first.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await hangs()

    second.orchestrator(name="main")(main_of(works))
    async with first.worker(lease_time=0.5):
        await first.start(main, instance_id="one")
        await asyncio.wait_for(begun.wait(), 30)
        assert first._worker is not None
        await first._worker.abandon()
        async with second.worker(lease_time=0.5):
            await second.get("one").result(30)
    attempts = {("work", "lost"): 1, ("work", "ok"): 1}
    assert meters.by("durable.activity.attempts", "activity", "outcome") == attempts
    assert meters.by("durable.instances.completed", "orchestration", "status") == {("main", "Completed"): 1}
    assert meters.total("durable.instance.duration", orchestration="main") == 1
    assert meters.total("durable.activity.queue_time", activity="work") == 1


def main_of(activity: Any) -> Any:
    """An orchestrator that calls this activity."""

    async def main(ctx: OrchestrationContext) -> None:
        await activity()

    return main


async def test_a_queue_is_named_with_the_time_that_its_calls_wait(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    hub.queue("gpu", worker_concurrency=2)

    @hub.activity(queue="gpu")
    async def render() -> None: ...

    hub.orchestrator(name="film")(main_of(render))
    async with hub.worker():
        await (await hub.start("film")).result(30)
        slots = meters.by("durable.worker.slots", "kind", "state")
    assert meters.total("durable.activity.queue_time", activity="render", queue="gpu") == 1
    assert slots[("queue:gpu", "used")] + slots[("queue:gpu", "free")] == 2


async def test_instances_in_the_store_are_counted_once_for_many_looks(url: str, meters: Meters) -> None:
    plain, hub = hub_at(url), hub_at(url, meters)
    async with plain.worker():
        for _ in range(2):
            await (await plain.start(speaker, False)).result()
        await plain.start(listener, 1, instance_id="waits")
        await until(plain.get("waits").status, lambda status: status.runtime_status.value == "Running")
    async with hub:
        await until(lambda: meters.points("durable.instances"), bool)
        shown = {status: count for (status,), count in meters.by("durable.instances", "status").items() if count}
        assert shown == {"Completed": 2, "Running": 1}
        assert meters.by("durable.instances", "status")[("Failed",)] == 0
        assert meters.total("durable.store.operation.duration", operation="count") == 1
    assert meters.points("durable.instances") == []


async def test_the_count_of_instances_is_renewed(url: str, meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker_metrics, "COUNT_EVERY", 0.01)
    hub = hub_at(url, meters)
    async with hub.worker():
        await (await hub.start(speaker, False)).result()
        await until(lambda: meters.by("durable.instances", "status").get(("Completed",)), lambda count: count == 1)
        await (await hub.start(speaker, False)).result()
        await until(lambda: meters.by("durable.instances", "status").get(("Completed",)), lambda count: count == 2)


async def test_each_turn_is_timed_and_its_history_measured(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    async with hub.worker():
        handle = await hub.start(listener, 1)
        await handle.raise_event("go")
        await handle.result()
        history = await handle.history()
        turns = sum(type(event).__name__ == "OrchestratorStarted" for event in history)
        await until(lambda: meters.total("durable.turn.duration"), lambda count: count >= turns)
    assert meters.total("durable.turn.duration", orchestration="listener", outcome="committed") == turns
    assert meters.total("durable.turn.queue_time") == turns
    (lengths,) = meters.points("durable.history.length", orchestration="listener")
    assert (lengths.count, lengths.max) == (turns, len(history))


async def test_a_batch_of_operations_is_a_turn_of_the_entity(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    async with hub.worker():
        await hub.signal_entity(EntityId("counter", "one"), "add", 1)
        await until(lambda: meters.total("durable.turn.duration", orchestration="@counter"), lambda count: count == 1)


async def breaks_a_rule(ctx: OrchestrationContext) -> None:
    await asyncio.to_thread(print)


async def waits_for_nothing(ctx: OrchestrationContext) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("code", "outcome"), [(breaks_a_rule, "nondeterminism"), (waits_for_nothing, "error")])
async def test_a_turn_that_cannot_be_run_is_told(code: Any, outcome: str, url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    hub.orchestrator(name="bad")(code)
    async with hub.worker():
        await hub.start("bad", instance_id="bad")
        await until(lambda: meters.total("durable.turn.duration", orchestration="bad", outcome=outcome), bool)
        await hub.get("bad").terminate("enough")


async def test_a_replay_that_contradicts_its_history_is_told(url: str, meters: Meters) -> None:
    first, second = hub_at(url), TaskHub(url)
    measured(second, meters)

    @second.orchestrator(name="listener")
    async def other(ctx: OrchestrationContext, events: int) -> None:
        await ctx.create_timer(timedelta(hours=1))

    async with first.worker():
        handle = await first.start(listener, 1, instance_id="changed")
        await until(handle.history, lambda history: any(type(one).__name__ == "TaskCompleted" for one in history))
    async with second.worker():
        await second.get("changed").raise_event("go")
        told = {"orchestration": "listener", "outcome": "nondeterminism"}
        await until(lambda: meters.total("durable.turn.duration", **told), bool)


async def test_a_turn_that_another_worker_was_before_is_told(url: str, meters: Meters) -> None:
    """The other one's clock is an hour ahead: it takes over while the first, which looks rarely, goes on."""
    first, second = hub_at(url, meters), hub_at(url, meters, clock=lambda: system_clock() + HOUR)
    async with first.worker(lease_time=60):
        handle = await first.start(listener, 3, instance_id="contended")
        await until(handle.history, lambda history: any(type(one).__name__ == "TaskCompleted" for one in history))
        before = len(await handle.history())
        async with second.worker(lease_time=60):
            await second.get("contended").raise_event("go")
            await until(handle.history, lambda history: len(history) > before)
            await handle.raise_event("go")
            told = {"orchestration": "listener", "outcome": "conflict"}
            await until(lambda: meters.total("durable.turn.duration", **told), bool)
            await handle.raise_event("go")
            await until(handle.status, lambda status: status.output == 3)


async def test_leases_that_another_worker_took_over_are_counted(url: str, meters: Meters) -> None:
    first, second = hub_at(url, meters), hub_at(url, clock=lambda: system_clock() + HOUR)
    async with first.worker(lease_time=0.4):
        assert meters.total("durable.lease.lost") == 0
        async with second.worker(lease_time=60):
            await until(lambda: meters.total("durable.lease.lost", kind="partition"), bool)


async def test_leases_that_are_given_up_are_not_lost(url: str, meters: Meters) -> None:
    first, second = hub_at(url, meters), hub_at(url)
    async with first.worker(lease_time=4), second.worker(lease_time=4):
        assert first._worker is not None
        partitions = first._worker._partitions
        await until(lambda: len(partitions.owned), lambda count: count == 8)
    assert meters.total("durable.lease.lost") == 0


async def test_events_that_are_replayed_are_counted(url: str, meters: Meters) -> None:
    first, second = hub_at(url), hub_at(url, meters)
    async with first.worker():
        handle = await first.start(listener, 1, instance_id="replayed")
        history = await until(handle.history, lambda history: len(history) > 5)
    async with second.worker():
        await second.get("replayed").raise_event("go")
        await second.get("replayed").result()
    (replayed,) = meters.points("durable.turn.replayed_events", orchestration="listener")
    assert (replayed.count, replayed.sum) == (1, len(history))


async def test_a_timer_that_fires_late_shows_by_how_much(url: str, meters: Meters) -> None:
    first, second = hub_at(url), hub_at(url, meters, clock=lambda: system_clock() + HOUR)

    async def sleeper(ctx: OrchestrationContext) -> None:
        await ctx.create_timer(timedelta(minutes=10))

    for hub in (first, second):
        hub.orchestrator(sleeper)
    async with first.worker():
        handle = await first.start("sleeper", instance_id="late")
        await until(handle.history, lambda history: any(type(one).__name__ == "TimerCreated" for one in history))
    async with second.worker():
        await second.get("late").result()
    (lag,) = meters.points("durable.timer.lag")
    assert lag.count == 1
    assert 2900 < lag.sum < 3600


async def test_slots_are_used_and_free(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    go_on = asyncio.Event()

    @hub.activity
    async def works() -> None:
        await go_on.wait()

    hub.orchestrator(name="main")(main_of(works))
    async with hub.worker(max_activities=5):
        handles = [await hub.start("main") for _ in range(2)]
        wanted = {("activity", "used"): 2, ("activity", "free"): 3}
        await until(lambda: meters.by("durable.worker.slots", "kind", "state"), lambda shown: shown == wanted)
        go_on.set()
        for handle in handles:
            await handle.result()
        assert meters.by("durable.worker.slots", "kind", "state")[("activity", "used")] == 0
    assert meters.points("durable.worker.slots") == []


async def test_operations_of_the_store_are_timed(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    async with hub.worker():
        handle = await hub.start(speaker, False)
        await handle.result()
        await handle.status()
    for operation in ("open", "commit", "heartbeat", "runnable", "get"):
        told = {"backend": "sqlite", "operation": operation, "outcome": "ok"}
        assert meters.total("durable.store.operation.duration", **told) > 0, operation


async def test_operations_that_fail_are_timed_too(url: str, meters: Meters) -> None:
    store = FaultyBackend(create_backend(url, "default"), scripted_plan({"commit": [Step(Fault.FAIL_AFTER)]}))
    hub = hub_at(store, meters)
    async with hub.worker():
        await (await hub.start(speaker, False)).result()
    told = {"backend": "faulty", "operation": "commit", "outcome": "unavailable"}
    assert meters.total("durable.store.operation.duration", **told) == 1


def test_a_timed_store_offers_what_the_store_offers() -> None:
    mongodb = timed(create_backend("mongodb://localhost:27017/x", "hub"), lambda *told: None)
    sqlite = timed(create_backend("sqlite:///x.db", "hub"), lambda *told: None)
    assert isinstance(mongodb, TransactionalBackend)
    assert not isinstance(sqlite, TransactionalBackend)
    assert (mongodb.settles_on_commit, sqlite.settles_on_commit) == (False, True)


async def test_a_hub_without_meters_uses_its_store_as_it_is(url: str) -> None:
    store = create_backend(url, "default")
    hub = TaskHub(store)
    hub.instrument(OpenTelemetry(InMemorySpanExporter(), tracer_provider=TracerProvider()))
    async with hub:
        assert hub._backend is store


async def test_two_hubs_of_a_process_share_the_gauges(tmp_path: Path, meters: Meters) -> None:
    one, other = (TaskHub(f"sqlite:///{tmp_path / name}.db", name=name) for name in ("one", "other"))
    for hub in (one, other):
        measured(hub, meters)
    async with one, other:
        await until(lambda: meters.by("durable.instances", "hub", "status"), lambda shown: len(shown) == 2 * 7)
        assert set(meters.by("durable.trace.lag", "hub")) == {("one",), ("other",)}
    async with one:  # again
        await until(lambda: meters.by("durable.instances", "hub", "status"), lambda shown: len(shown) == 7)


async def test_no_attribute_tells_instances_apart(url: str, meters: Meters) -> None:
    hub = hub_at(url, meters)
    hub.queue("gpu", worker_concurrency=2)
    hub.activity(name="render", queue="gpu")(speak.fn)
    policy = RetryPolicy(first_interval=timedelta(milliseconds=1), max_attempts=2)

    @hub.orchestrator
    async def all_kinds(ctx: OrchestrationContext) -> None:
        await ctx.call_activity("render", False)
        await ctx.call_entity(EntityId("counter", "key-of-one"), "add", 1)
        with pytest.raises(Exception, match="no"):
            await speak.options(retry=policy)(True)

    async with hub.worker():
        await (await hub.start(all_kinds, instance_id="id-of-one")).result()
        await until(lambda: meters.points("durable.instances"), bool)
        data = meters.reader.get_metrics_data()
    assert data is not None
    metrics = [one for group in data.resource_metrics for scope in group.scope_metrics for one in scope.metrics]
    points: list[Any] = [point for one in metrics for point in one.data.data_points]
    attributes = [dict(point.attributes) for point in points]
    names = {name for each in attributes for name in each}
    assert names == {
        *("orchestration", "origin", "status", "activity", "queue", "outcome"),
        *("operation", "backend", "kind", "state", "hub"),
    }
    assert "of-one" not in str(attributes)
