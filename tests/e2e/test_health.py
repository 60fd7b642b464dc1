"""What a hub says of itself and of its workers, and that a store which is away is an answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from durable import DurableError, OrchestrationContext, TaskHub
from durable.backend import Commit, CommitOutcome
from durable.testing.faults import Fault, FaultyBackend, Step
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from tests.e2e.waiting import until


async def test_a_worker_and_a_client(hub_url: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    hub, client = TaskHub(hub_url), TaskHub(hub_url)
    async with hub.worker(), client:
        here = await hub.health()
        assert (here.status, here.hub, here.connected, here.worker, here.problem) == ("ok", "default", True, True, None)
        (worker,) = await client.workers()
        assert worker.worker_id == here.worker_id
        assert before < worker.started_at < datetime.now(UTC)
        assert here.partitions_owned == len(worker.partitions) > 0
        there = await client.health()
        assert (there.status, there.worker, there.worker_id, there.partitions_owned) == ("ok", False, None, 0)
    async with client:
        assert await client.workers() == []


async def test_two_workers_share(hub_url: str) -> None:
    hubs = [TaskHub(hub_url), TaskHub(hub_url)]
    async with hubs[0].worker(lease_time=0.5), hubs[1].worker(lease_time=0.5):
        found = await until(
            hubs[0].workers, lambda found: len(found) == 2 and all(len(each.partitions) == 8 for each in found)
        )
        assert sorted(number for each in found for number in each.partitions) == list(range(16))
        assert [each.worker_id for each in found] == sorted(each.worker_id for each in found)


async def test_a_hub_that_is_not_connected() -> None:
    hub = TaskHub("memory://")
    health = await hub.health()
    assert (health.status, health.connected, health.problem) == ("down", False, "the hub is not connected")
    with pytest.raises(DurableError, match="is not connected"):
        await hub.workers()


async def test_a_store_that_is_away() -> None:
    away = False
    backend = FaultyBackend(MemoryBackend(), lambda operation: Step(Fault.FAIL_BEFORE) if away else Step())
    async with TaskHub(backend) as hub:
        assert (await hub.health()).status == "ok"
        away = True
        health = await hub.health()
        assert (health.status, health.connected) == ("down", False)
        assert health.problem
        away = False
        assert (await hub.health()).status == "ok"


async def test_a_store_that_takes_no_writes_degrades_its_worker() -> None:
    away = False

    def plan(operation: str) -> Step:
        return Step(Fault.FAIL_BEFORE) if away and operation != "topology" else Step()

    hub = TaskHub(FaultyBackend(MemoryBackend(), plan))
    async with hub.worker(lease_time=0.2):
        away = True
        health = await until(hub.health, lambda health: health.status != "ok")
        assert (health.status, health.connected) == ("degraded", True)
        assert health.problem == "the worker waits for the store to take its writes"
        away = False
        await until(hub.health, lambda health: health.status == "ok")


class Broken(MemoryBackend):
    """Its commits fail in a way that repeating does not mend."""

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        raise RuntimeError("the disk is on fire")


async def broken_hub() -> TaskHub:
    """A hub whose worker fails at the first instance, which waits for it."""
    store = MemoryStore()
    async with TaskHub(MemoryBackend(store)) as client:
        await client.start("anything")
    hub = TaskHub(Broken(store))

    @hub.orchestrator
    async def anything(ctx: OrchestrationContext) -> None: ...

    return hub


async def test_a_worker_that_cannot_go_on_is_named() -> None:
    hub = await broken_hub()
    working = hub.worker()
    await working.__aenter__()
    health = await until(hub.health, lambda health: health.status != "ok")
    assert (health.status, "on fire" in (health.problem or "")) == ("degraded", True)
    with pytest.raises(RuntimeError, match="on fire"):
        await working.__aexit__(None, None, None)


async def test_run_worker_ends_when_its_worker_cannot_go_on() -> None:
    hub = await broken_hub()
    with pytest.raises(RuntimeError, match="on fire"):
        await hub.run_worker()
