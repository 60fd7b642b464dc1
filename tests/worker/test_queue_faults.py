"""Activity queues on a store that fails, lags and forgets to answer, with two workers of which one may die."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from durable import ActivityContext, OrchestrationContext, Registry, TaskHub
from durable.testing.faults import FaultyBackend, random_plan
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from tests.e2e.virtual_time import in_virtual_time, virtual_hub

CALLS = 24
SEEDS = range(12)
LEASE = 2.0  # virtual seconds


class Shop:
    """The definitions of both workers, and what ran: at once by key, and how often each call was run."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.registry.queue("q", concurrency=4, per_key=2, rate=50, burst=4)
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()
        self.attempts: set[int] = set()
        self.registry.activity(queue="q")(self.work)
        self.registry.orchestrator(name="many")(many)

    async def work(self, number: int, key: str) -> int:
        self.ran[ActivityContext.current().idempotency_key] += 1
        self.attempts.add(ActivityContext.current().attempt)
        for each in (key, "all"):
            self.now[each] += 1
            self.most[each] = max(self.most[each], self.now[each])
        try:
            await asyncio.sleep(0.3)
        finally:
            for each in (key, "all"):
                self.now[each] -= 1
        return number

    def hub_on(self, store: MemoryStore, seed: int) -> TaskHub:
        spare = ("open", "watch", "heartbeat", "acquire_partitions")
        faulty = FaultyBackend(MemoryBackend(store), random_plan(seed, failures=0.15, spare=spare))
        hub = virtual_hub(faulty, lease_time=10.0)
        hub.include(self.registry)
        return hub


async def many(ctx: OrchestrationContext, calls: int) -> list[int]:
    keys = [f"k{number % 3}" for number in range(calls)]
    work = [ctx.call_activity("work", number, key) for number, key in enumerate(keys)]
    return list(await asyncio.gather(*work))


async def run(seed: int, *, dies: bool) -> Shop:
    shop, store = Shop(), MemoryStore()
    first, second = shop.hub_on(store, seed), shop.hub_on(store, seed + 1000)
    async with first.worker(), second.worker():
        handles = [await hub.start("many", CALLS) for hub in (first, second)]
        if dies:
            assert first._worker is not None
            async with asyncio.timeout(600):
                while not first._worker._calls._served["q"].running:
                    await asyncio.sleep(0.05)
            await first._worker.abandon()
        async with second:
            results = [await second.get(handle.instance_id).result(600) for handle in handles]
    assert results == [list(range(CALLS))] * 2
    assert len(shop.ran) == 2 * CALLS
    return shop


@pytest.mark.parametrize("seed", SEEDS)
def test_limits_hold_and_every_call_ends(seed: int) -> None:
    shop = in_virtual_time(lambda: run(seed, dies=False))
    assert shop.most["all"] <= 4
    assert max(count for key, count in shop.most.items() if key != "all") <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_dead_worker_had_claimed_runs_elsewhere(seed: int) -> None:
    shop = in_virtual_time(lambda: run(seed, dies=True))
    assert 2 in shop.attempts  # its claims expired, and that was counted
    assert shop.most["all"] <= 4


class SlowToForget(MemoryBackend):
    """A store that takes longer than a lease to end a task and to renew a claim, and answers all else at once."""

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        await asyncio.sleep(8 * LEASE)
        return await super().renew_tasks(queue, worker_id, task_ids, now, ttl)

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        await asyncio.sleep(2.5 * LEASE)
        await super().finish_tasks(queue, worker_id, task_ids)


def test_what_has_ended_here_is_not_run_again_when_its_claim_expires_before_the_store_knows() -> None:
    """The worker claims it a second time while it tells of the first; it used to fail when the second one ended."""
    ran: list[int] = []

    async def work() -> int:
        ran.append(1)
        await asyncio.sleep(0.1 if len(ran) == 1 else 2.5 * LEASE)
        return len(ran)

    async def one(ctx: OrchestrationContext) -> int:
        return int(await ctx.call_activity("work"))

    async def run() -> None:
        hub = virtual_hub(SlowToForget(MemoryStore()), lease_time=LEASE)
        hub.queue("q")
        hub.activity(queue="q")(work)
        hub.orchestrator(one)
        async with hub.worker():
            assert await (await hub.start("one")).result(60) == 1
            await asyncio.sleep(10 * LEASE)
            assert hub._worker is not None
            assert hub._worker.failure is None

    in_virtual_time(run)
    assert ran == [1]
