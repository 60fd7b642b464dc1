"""Promises of ``durable.tasks``: who gets which task, and who keeps it. A backend without queues skips them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from durable.backend import Backend
from durable.core.event_parts import QueuePlace
from durable.core.events import TaskScheduled
from durable.tasks import Claims, QueueBackend, QueuedTask, QueueLimits
from durable.testing.conformance.builders import HOSTILE_TEXTS, SECOND, T0
from durable.testing.conformance.fixtures import ConformanceFixtures

TTL = 10 * SECOND
FREE = QueueLimits()


def queues_of(backend: Backend) -> QueueBackend:
    """The backend, if it keeps queues; skips the test if not."""
    if not isinstance(backend, QueueBackend):
        pytest.skip("this backend has no activity queues")
    return backend


def new_task(number: int, *, queue: str = "q", rank: int | None = None, key: str | None = None) -> QueuedTask:
    """A task; unless ``rank`` says otherwise its turn follows from its number."""
    place = QueuePlace(queue, 3, key)
    scheduled = TaskScheduled(T0, number, "work", f"[{number}]", SECOND, "app.py:1", queue=place)
    rank = number if rank is None else rank
    return QueuedTask(f"i/e/{number:08d}", queue, "work", rank, key, "i", "e", scheduled, T0 + number)


async def claim(backend: QueueBackend, worker_id: str = "a", limits: QueueLimits = FREE, **changes: Any) -> Claims:
    """Claim for a worker, at T0 and as many as there are unless ``changes`` say otherwise."""
    options: dict[str, Any] = {"now": T0, "limit": 100, "names": ["work"], "queue": "q"} | changes
    queue, now = options.pop("queue"), options.pop("now")
    return await backend.claim_tasks(queue, limits, worker_id, now, TTL, **options)


def numbers(tasks: Sequence[QueuedTask]) -> list[int]:
    """The numbers that tasks were made with."""
    return [task.scheduled.task_id for task in tasks]


class QueueConformance(ConformanceFixtures):
    async def test_a_task_comes_as_it_was_offered_and_to_one_worker(self, backend: Backend, other: Backend) -> None:
        first, second = queues_of(backend), queues_of(other)
        task = new_task(1, key="k", rank=-(2**60))
        await first.offer_tasks([task])
        assert (await claim(second)).tasks == (replace(task, number=1),)
        assert (await claim(first, "b")).tasks == ()

    async def test_what_is_offered_again_stays_as_it_is(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(1)])
        await claim(store)
        await store.offer_tasks([new_task(1, rank=99), new_task(2)])
        assert numbers((await claim(store, "b")).tasks) == [2]
        await store.finish_tasks("q", "a", ["i/e/00000001"])
        await store.offer_tasks([new_task(1)])
        assert numbers((await claim(store, "b", holding=["i/e/00000002"])).tasks) == [1]

    async def test_the_lowest_rank_comes_first(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(n, rank=rank) for n, rank in enumerate([5, -7, 5, 2**60, 0], 1)])
        assert numbers((await claim(store, limit=2)).tasks) == [2, 5]
        assert numbers((await claim(store, "b")).tasks) == [1, 3, 4]

    async def test_queues_and_names_are_kept_apart(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(1), new_task(2, queue="Q"), replace(new_task(3), name="other")])
        assert numbers((await claim(store, names=["other", "nobody"])).tasks) == [3]
        assert numbers((await claim(store, queue="Q")).tasks) == [2]
        assert (await claim(store, queue="none")).next_at is None
        assert numbers((await claim(store, "b")).tasks) == [1]

    async def test_an_expired_claim_is_free_and_counted(self, backend: Backend, other: Backend) -> None:
        first, second = queues_of(backend), queues_of(other)
        await first.offer_tasks([new_task(1)])
        await claim(first)
        early = await claim(second, "b", now=T0 + TTL - 1)
        assert (early.tasks, early.next_at) == ((), T0 + TTL)
        [again] = (await claim(second, "b", now=T0 + TTL)).tasks
        assert again.number == 2
        assert await first.renew_tasks("q", "a", [again.task_id], T0 + TTL, TTL) == set()
        await first.finish_tasks("q", "a", [again.task_id])
        await first.release_tasks("q", "a", [again.task_id])
        assert await second.renew_tasks("q", "b", [again.task_id, "x"], T0 + TTL + 1, TTL) == {again.task_id}

    async def test_a_renewed_claim_lasts_and_an_expired_one_is_lost(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(1)])
        [task] = (await claim(store)).tasks
        assert await store.renew_tasks("q", "a", [task.task_id], T0 + TTL - 1, TTL) == {task.task_id}
        assert (await claim(store, "b", now=T0 + 2 * TTL - 2)).tasks == ()
        assert await store.renew_tasks("q", "a", [task.task_id], T0 + 2 * TTL, TTL) == set()

    async def test_what_is_given_back_is_free_at_once_and_not_counted(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(1)])
        for _ in range(2):
            [task] = (await claim(store)).tasks
            assert task.number == 1
            await store.release_tasks("q", "b", [task.task_id])
            await store.release_tasks("q", "a", [task.task_id, "x"])
        await claim(store)
        [task] = (await claim(store, "b", now=T0 + TTL)).tasks
        await store.release_tasks("q", "b", [task.task_id])
        [task] = (await claim(store, "c", now=T0 + TTL)).tasks
        assert task.number == 2

    async def test_finished_and_withdrawn_tasks_are_gone(self, backend: Backend, other: Backend) -> None:
        first, second = queues_of(backend), queues_of(other)
        tasks = [new_task(number) for number in range(1, 5)]
        ids = [task.task_id for task in tasks]
        await first.offer_tasks(tasks)
        await claim(first, limit=2)
        await first.finish_tasks("q", "a", [ids[0], ids[2]])  # the third is not its own
        await second.withdraw_tasks("q", [ids[1], ids[3], "x"])
        assert await first.renew_tasks("q", "a", ids, T0, TTL) == set()
        assert numbers((await claim(second, "b", now=T0 + 2 * TTL)).tasks) == [3]
        await second.finish_tasks("q", "b", ids)
        assert await claim(first, now=T0 + 4 * TTL) == Claims((), None)

    async def test_a_claim_whose_answer_was_lost_comes_again(self, backend: Backend) -> None:
        store = queues_of(backend)
        await store.offer_tasks([new_task(number) for number in range(1, 5)])
        one = QueueLimits(concurrency=2, interval=SECOND, burst=2)
        lost = (await claim(store, limits=one, limit=2)).tasks
        assert (await claim(store, limits=one, limit=2)).tasks == lost
        assert (await claim(store, limits=one, holding=[lost[0].task_id])).tasks == lost[1:]
        assert (await claim(store, "b", one)).tasks == ()

    async def test_claims_at_once_share_the_tasks(self, backend: Backend, other: Backend) -> None:
        stores = [queues_of(backend), queues_of(other)]
        await stores[0].offer_tasks([new_task(number) for number in range(40)])
        claims = [claim(stores[each % 2], f"w{each}", limit=10) for each in range(6)]
        won = [number for claimed in await asyncio.gather(*claims) for number in numbers(claimed.tasks)]
        assert sorted(won) == list(range(40))

    async def test_hostile_texts_are_only_texts(self, backend: Backend) -> None:
        store = queues_of(backend)
        per_key = QueueLimits(per_key=1)
        for place, text in enumerate(HOSTILE_TEXTS):
            tasks = [new_task(number, key=text) for number in (2 * place, 2 * place + 1)]
            await store.offer_tasks(tasks)
        claimed = await claim(store, "$where", per_key)
        assert numbers(claimed.tasks) == [2 * place for place in range(len(HOSTILE_TEXTS))]
        ids = [task.task_id for task in claimed.tasks]
        assert await store.renew_tasks("q", '{"$gt": ""}', ids, T0, TTL) == set()
