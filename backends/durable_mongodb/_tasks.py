"""Activity queues: what waits is a document each; who has claimed what is one document a queue.

Rule of this file: every change to claims is a compare-and-set of the queue's document, by its ``version``. So claims
happen one after the other, the limits are counted in what is replaced, and a process that dies in between leaves either
the document as it was or a claim that expires. A task's own document is only inserted and deleted: before its claim
goes, so that nobody can claim what is ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from random import random
from typing import Any, TypeVar

from durable.core.errors import UnsupportedHistoryError
from durable.core.events import TaskScheduled
from durable.tasks import Claims, QueuedTask, QueueLimits, Room
from durable_mongodb._documents import event_from_document, event_to_document
from durable_mongodb._driver import Document, plain
from durable_mongodb._hub import Hub
from durable_mongodb._indexes import BY_ID, TASKS_TURNS

R = TypeVar("R")

_PAGE = 100
_BACK_OFF = 0.01
"""Seconds, at most, before a change that another one has overtaken is tried again."""


@dataclass(slots=True)
class _Queue:
    """A queue's document. ``claims`` are by task; those that have expired stay for their number."""

    version: int
    whole_at: int
    claims: dict[str, Document]

    def held(self, worker_id: str, task_ids: Collection[str]) -> list[str]:
        """Those of these tasks that ``worker_id`` has claimed."""
        return [one for one in task_ids if one in self.claims and self.claims[one]["worker"] == worker_id]


async def offer(hub: Hub, tasks: Sequence[QueuedTask]) -> None:
    """See :meth:`durable.tasks.QueueBackend.offer_tasks`."""
    await hub.tasks.insert([_task_to_document(task) for task in tasks])


async def claim(
    hub: Hub,
    queue: str,
    limits: QueueLimits,
    worker_id: str,
    now: int,
    ttl: int,
    names: Collection[str],
    limit: int,
    holding: Collection[str],
) -> Claims:
    """See :meth:`durable.tasks.QueueBackend.claim_tasks`."""
    while True:
        state = await _read(hub, queue)
        live = {task_id: one for task_id, one in state.claims.items() if one["until"] > now}
        lost = [task_id for task_id in live if live[task_id]["worker"] == worker_id and task_id not in holding][:limit]
        room = Room(limits, (one["key"] for one in live.values()), state.whole_at, now, limit - len(lost))
        free: Document = {"queue": {"$eq": queue}, "name": {"$in": list(names)}}
        taken = await _pick(hub, free, room, live)
        if taken:
            expired = state.claims.keys() - live.keys() - taken.keys()
            state.claims = {**{one: state.claims[one] for one in await _existing(hub, expired)}, **live} | {
                task_id: _claim_document(task_id, key, worker_id, now + ttl, _number(state, task_id) + 1)
                for task_id, key in taken.items()
            }
            state.whole_at = room.whole_at
            if not await _replace(hub, queue, state):
                await asyncio.sleep(_BACK_OFF * random())
                continue
        # Read now: what was withdrawn before it was claimed here is not there any more.
        tasks = await _tasks(hub, state, [*lost, *taken])
        is_full = len(lost) + len(taken) >= limit
        waits = (is_full or not room.has_start) and await _any(hub, free, [*live, *taken])
        expiries = (one["until"] for one in live.values())
        return Claims(tasks, room.next_at(waits, expiries, is_full=is_full))


async def renew(hub: Hub, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
    """See :meth:`durable.tasks.QueueBackend.renew_tasks`."""

    def change(state: _Queue) -> set[str]:
        held = {one for one in state.held(worker_id, task_ids) if state.claims[one]["until"] > now}
        for task_id in held:
            state.claims[task_id]["until"] = now + ttl
        return held

    return await _change(hub, queue, change)


async def release(hub: Hub, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
    """See :meth:`durable.tasks.QueueBackend.release_tasks`."""

    def change(state: _Queue) -> list[str]:
        held = state.held(worker_id, task_ids)
        for task_id in held:
            one = state.claims.pop(task_id)
            if one["number"] > 1:
                state.claims[task_id] = _claim_document(task_id, one["key"], None, 0, one["number"] - 1)
        return held

    await _change(hub, queue, change, frees=True)


async def finish(hub: Hub, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
    """See :meth:`durable.tasks.QueueBackend.finish_tasks`."""
    held = (await _read(hub, queue)).held(worker_id, task_ids)
    await hub.tasks.delete({"_id": {"$in": held}, "queue": {"$eq": queue}}, index=BY_ID)
    await _change(hub, queue, lambda state: [state.claims.pop(one) for one in state.held(worker_id, held)], frees=True)


async def withdraw(hub: Hub, queue: str, task_ids: Sequence[str]) -> None:
    """See :meth:`durable.tasks.QueueBackend.withdraw_tasks`."""
    await hub.tasks.delete({"_id": {"$in": list(task_ids)}, "queue": {"$eq": queue}}, index=BY_ID)

    def change(state: _Queue) -> list[Document]:
        return [state.claims.pop(task_id) for task_id in task_ids if task_id in state.claims]

    await _change(hub, queue, change, frees=True)


# --- the queue's document


async def _read(hub: Hub, queue: str) -> _Queue:
    found = await hub.queues.find({"_id": queue}, index=BY_ID)
    if not found:
        await hub.queues.insert([{"_id": queue, "version": 0, "whole_at": 0, "claims": []}])
        return await _read(hub, queue)
    document = plain(found[0])
    return _Queue(document["version"], document["whole_at"], {one["task"]: one for one in document["claims"]})


async def _replace(hub: Hub, queue: str, state: _Queue, *, frees: bool = False) -> bool:
    """Write ``state`` if nobody has since it was read."""
    values = {"version": state.version + 1, "whole_at": state.whole_at, "claims": list(state.claims.values())}
    if frees:
        values["freed"] = state.version + 1  # for whoever watches: there may be room
    unchanged: Document = {"_id": queue, "version": state.version}
    return bool(await hub.queues.update(unchanged, {"$set": values}, index=BY_ID))


async def _change(hub: Hub, queue: str, change: Callable[[_Queue], R], *, frees: bool = False) -> R:
    """Change a queue's document and return what ``change`` did; nothing is written when it did nothing."""
    while True:
        state = await _read(hub, queue)
        done = change(state)
        if not done or await _replace(hub, queue, state, frees=frees):
            return done
        await asyncio.sleep(_BACK_OFF * random())


def _claim_document(task_id: str, key: str | None, worker_id: str | None, until: int, number: int) -> Document:
    return {"task": task_id, "key": key, "worker": worker_id, "until": until, "number": number}


def _number(state: _Queue, task_id: str) -> int:
    return int(state.claims[task_id]["number"]) if task_id in state.claims else 0


# --- the tasks' documents


async def _pick(hub: Hub, free: Document, room: Room, live: Collection[str]) -> dict[str, str | None]:
    """The free tasks that there is room for, in the order of their turns, with their keys."""
    taken: dict[str, str | None] = {}
    seen = list(live)
    while room.is_left:
        where = free | {"_id": {"$nin": seen}, "key": {"$nin": room.full_keys}}
        page = await hub.tasks.find(
            where, fields=["_id", "key"], sort=[("rank", 1), ("_id", 1)], limit=_PAGE, index=TASKS_TURNS
        )
        for document in page:
            if room.take(document["key"]):
                taken[document["_id"]] = document["key"]
            seen.append(document["_id"])
        if len(page) < _PAGE:
            break
    return taken


async def _any(hub: Hub, free: Document, but: list[str]) -> bool:
    where = free | {"_id": {"$nin": but}}
    return bool(await hub.tasks.find(where, fields=["_id"], limit=1, index=TASKS_TURNS))


async def _existing(hub: Hub, task_ids: Collection[str]) -> list[str]:
    if not task_ids:
        return []
    found = await hub.tasks.find({"_id": {"$in": list(task_ids)}}, fields=["_id"], index=BY_ID)
    return [document["_id"] for document in found]


async def _tasks(hub: Hub, state: _Queue, task_ids: list[str]) -> tuple[QueuedTask, ...]:
    """The tasks of these claims, without those that are not there."""
    if not task_ids:
        return ()
    found = await hub.tasks.find({"_id": {"$in": task_ids}}, index=BY_ID)
    tasks = {document["_id"]: _task_from_document(document) for document in found}
    return tuple(replace(tasks[one], number=_number(state, one)) for one in task_ids if one in tasks)


def _task_to_document(task: QueuedTask) -> Document:
    return {
        "_id": task.task_id,
        "queue": task.queue,
        "name": task.name,
        "rank": task.rank,
        "key": task.key,
        "instance_id": task.instance_id,
        "execution_id": task.execution_id,
        "event": event_to_document(task.scheduled),
        "offered_at": task.offered_at,
    }


def _task_from_document(document: Document) -> QueuedTask:
    """The task that was offered. Raises UnsupportedHistoryError for an event that is not known."""
    values: dict[str, Any] = plain(document)
    event = event_from_document(values["event"])
    if not isinstance(event, TaskScheduled):
        raise UnsupportedHistoryError(f"task {values['_id']!r} holds {type(event).__name__}; it must be TaskScheduled")
    place = (values["_id"], values["queue"], values["name"], values["rank"], values["key"])
    return QueuedTask(*place, values["instance_id"], values["execution_id"], event, values["offered_at"])
