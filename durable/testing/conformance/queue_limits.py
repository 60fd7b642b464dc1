"""Promises of ``claim_tasks`` about limits: they hold whoever claims, in whatever order, and also at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from durable.backend import Backend
from durable.tasks import QueueBackend, QueuedTask, QueueLimits
from durable.testing.conformance.builders import SECOND, T0
from durable.testing.conformance.fixtures import ConformanceFixtures
from durable.testing.conformance.queues import TTL, claim, new_task, numbers, queues_of

_LIMITS = (
    QueueLimits(concurrency=3),
    QueueLimits(per_key=1),
    QueueLimits(concurrency=4, per_key=2),
    QueueLimits(interval=SECOND // 2, burst=3),
    QueueLimits(concurrency=5, per_key=2, interval=SECOND // 4, burst=2),
)
_STEPS = 40


class _Judge:
    """Plays workers on several handles of one store, and knows what they may hold."""

    def __init__(self, stores: list[QueueBackend], limits: QueueLimits, seed: int) -> None:
        self.stores = stores
        self.limits = limits
        self.random = Random(seed)
        self.now = T0
        self.offered = 0
        self.held: dict[str, tuple[str, str | None, int]] = {}
        self.ended: set[str] = set()
        self.starts: list[int] = []

    async def step(self) -> None:
        self.now += self.random.choice([0, 1, SECOND // 5, SECOND, TTL // 2])
        self.held = {task_id: held for task_id, held in self.held.items() if held[2] > self.now}
        workers = self.random.sample(["a", "b", "c", "d"], 3)
        await asyncio.gather(*(self._act(worker, self.random.choice(self.stores)) for worker in workers))
        self._check()

    async def _act(self, worker: str, store: QueueBackend) -> None:
        mine = [task_id for task_id, (owner, _, _) in self.held.items() if owner == worker]
        some = [task_id for task_id in mine if self.random.random() < 0.4]
        match self.random.choice(["offer", "claim", "claim", "claim", "finish", "renew", "release"]):
            case "offer":
                await store.offer_tasks([self._new_task() for _ in range(4)])
            case "claim":
                limit = self.random.randint(1, 6)
                claimed = await claim(store, worker, self.limits, now=self.now, limit=limit, holding=mine)
                assert len(claimed.tasks) <= limit
                for task in claimed.tasks:
                    self._claimed(worker, task)
            case "renew":
                assert await store.renew_tasks("q", worker, some, self.now, TTL) == set(some)
                for task_id in some:
                    self.held[task_id] = (worker, self.held[task_id][1], self.now + TTL)
            case ending:
                for task_id in some:  # before: from then on the store may give the room to another
                    del self.held[task_id]
                if ending == "finish":
                    self.ended.update(some)
                    await store.finish_tasks("q", worker, some)
                else:
                    await store.release_tasks("q", worker, some)

    def _new_task(self) -> QueuedTask:
        self.offered += 1
        return new_task(self.offered, rank=self.random.randint(0, 50), key=self.random.choice(["x", "y", "z", None]))

    def _claimed(self, worker: str, task: QueuedTask) -> None:
        assert task.task_id not in self.held
        assert task.task_id not in self.ended
        self.held[task.task_id] = (worker, task.key, self.now + TTL)
        self.starts.append(self.now)
        self._check()

    def _check(self) -> None:
        limits = self.limits
        assert limits.concurrency is None or len(self.held) <= limits.concurrency
        keys = Counter(key for _, key, _ in self.held.values() if key is not None)
        assert limits.per_key is None or max(keys.values(), default=0) <= limits.per_key
        if limits.interval is not None:
            for place, start in enumerate(self.starts):
                within = len(self.starts) - place  # all from this one until now
                assert (within - limits.burst) * limits.interval <= self.now - start


class QueueLimitConformance(ConformanceFixtures):
    @pytest.mark.parametrize("limits", _LIMITS, ids=range(len(_LIMITS)))
    async def test_limits_hold_at_every_step_of_several_claimers(
        self, backend: Backend, other: Backend, limits: QueueLimits
    ) -> None:
        judge = _Judge([queues_of(backend), queues_of(other)], limits, seed=_LIMITS.index(limits))
        await judge.stores[0].offer_tasks([judge._new_task() for _ in range(20)])
        for _ in range(_STEPS):
            await judge.step()
        assert len(judge.starts) > 5

    async def test_the_room_of_what_ended_is_given_again(self, backend: Backend, other: Backend) -> None:
        store, second, one = queues_of(backend), queues_of(other), QueueLimits(concurrency=1)
        await store.offer_tasks([new_task(number) for number in (1, 2, 3)])
        [first] = (await claim(store, limits=one)).tasks
        assert (await claim(second, "b", one)).next_at == T0 + TTL
        await store.finish_tasks("q", "a", [first.task_id])
        assert numbers((await claim(second, "b", one)).tasks) == [2]
        await second.withdraw_tasks("q", ["i/e/00000002"])
        assert numbers((await claim(second, "b", one)).tasks) == [3]

    async def test_an_expired_claim_frees_its_room(self, backend: Backend) -> None:
        store, one = queues_of(backend), QueueLimits(concurrency=1)
        await store.offer_tasks([new_task(1), new_task(2)])
        await claim(store, limits=one)
        await store.offer_tasks([new_task(0)])
        assert numbers((await claim(store, "b", one, now=T0 + TTL)).tasks) == [0]
        assert await store.renew_tasks("q", "a", ["i/e/00000001"], T0 + TTL, TTL) == set()

    async def test_a_full_key_does_not_hold_up_the_others(self, backend: Backend) -> None:
        store, limits = queues_of(backend), QueueLimits(per_key=2)
        await store.offer_tasks([new_task(number, key="busy") for number in range(300)])
        await store.offer_tasks([new_task(300, key="other"), new_task(301), new_task(302)])
        assert numbers((await claim(store, limits=limits, limit=4)).tasks) == [0, 1, 300, 301]
        rest = await claim(store, "b", limits)
        assert (numbers(rest.tasks), rest.next_at) == ([302], T0 + TTL)

    async def test_the_rate_is_kept_and_the_next_start_foretold(self, backend: Backend, other: Backend) -> None:
        store, second, limits = queues_of(backend), queues_of(other), QueueLimits(interval=SECOND, burst=2)
        await store.offer_tasks([new_task(number) for number in range(10)])
        assert len((await claim(store, limits=limits)).tasks) == 2
        early = await claim(second, "b", limits, now=T0 + SECOND - 1)
        assert (early.tasks, early.next_at) == ((), T0 + SECOND)
        assert len((await claim(second, "b", limits, now=T0 + SECOND)).tasks) == 1
        later = await claim(second, "c", limits, now=T0 + 9 * SECOND)  # no more than a burst is saved up
        assert len(later.tasks) == 2

    async def test_who_took_its_fill_may_ask_again_at_once(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(number) for number in range(3)])
        assert (await claim(store, limit=2)).next_at == T0
        assert (await claim(store, "b", limit=2)).next_at in (T0, T0 + TTL)
