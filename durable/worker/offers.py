"""Offers: activities that are to run in a queue, put there by the worker that has their instance, and taken back.

Rule of this file: behind the commit. An offer that a crash loses is made again by whoever loads the instance next, as
history says that the activity is outstanding; one made twice is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from durable.backend import Backend
from durable.clock import Clock
from durable.core.events import TaskScheduled
from durable.offload import stored_form
from durable.registry import Registry
from durable.tasks import QueueBackend, QueuedTask
from durable.worker.activities import Key
from durable.worker.live import LiveInstance
from durable.worker.patience import Patience

_PRUNE_FROM = 64


@dataclass(slots=True)
class _Change:
    """What is to become of one task, in this order. ``again`` is the instance of one that was offered before, maybe."""

    queue: str
    withdrawn: Key | None = None
    offered: QueuedTask | None = None
    again: LiveInstance | None = None


class Offers:
    """Offers and withdraws tasks, in batches; ``offered`` hears of queues that changed, ``withdrawn`` of calls."""

    def __init__(
        self,
        backend: Backend,
        store: QueueBackend,
        registry: Registry,
        patience: Patience,
        clock: Clock,
        offered: Callable[[str], None],
        withdrawn: Callable[[Key], None],
    ) -> None:
        self._backend = backend
        self._store = store
        self._registry = registry
        self._patience = patience
        self._clock = clock
        self._offered = offered
        self._withdrawn = withdrawn
        self._changes: dict[str, _Change] = {}
        self._something = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def offer(self, instance: LiveInstance, scheduled: TaskScheduled, *, again: bool) -> None:
        """Have an activity wait in its queue; ``again`` says that it may have been there.

        Raises UnknownFunctionError for a queue that is not registered here.
        """
        place = scheduled.queue
        assert place is not None
        now, record = self._clock(), instance.record
        task = QueuedTask(
            task_id_of(record.instance_id, record.execution_id, scheduled.task_id),
            place.name,
            scheduled.name,
            self._registry.find_queue(place.name).rank(place.priority, scheduled.timestamp),
            place.key,
            record.instance_id,
            record.execution_id,
            replace(scheduled, input=stored_form(scheduled.input)),  # the commit has stored what is large
            now,
        )
        change = self._change(task.task_id, place.name)
        change.offered, change.again = task, instance if again else None
        known = instance.queued = instance.queued or {}
        known[scheduled.task_id] = place.name
        if len(known) > _PRUNE_FROM + 2 * len(instance.state.activities):
            instance.queued = {one: queue for one, queue in known.items() if one in instance.state.activities}

    def withdraw(self, instance: LiveInstance, task_id: int, queue: str) -> None:
        """Take an activity out of its queue; if it runs, it is cancelled then, elsewhere as soon as it is renewed."""
        task = task_id_of(instance.record.instance_id, instance.record.execution_id, task_id)
        change = self._change(task, queue)
        change.withdrawn = instance.record.instance_id, instance.record.execution_id, task_id
        change.offered = None

    def _change(self, task_id: str, queue: str) -> _Change:
        self._something.set()
        self._idle.clear()
        return self._changes.setdefault(task_id, _Change(queue))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            changes, self._changes = self._changes, {}
            withdrawn = await self._withdraw(changes)
            tasks = await self._still_to_do(changes)
            if tasks:
                await self._patience.insist(partial(self._store.offer_tasks, tasks))
            for queue in dict.fromkeys([*withdrawn, *(task.queue for task in tasks)]):
                self._offered(queue)
            if not self._changes:
                self._idle.set()

    async def _withdraw(self, changes: dict[str, _Change]) -> Iterable[str]:
        """Withdraw what is to go, all of it before the first is cancelled: that makes room. The queues concerned."""
        task_ids: dict[str, list[str]] = {}
        for task_id, change in changes.items():
            if change.withdrawn is not None:
                task_ids.setdefault(change.queue, []).append(task_id)
        for queue, ids in task_ids.items():
            await self._patience.insist(partial(self._store.withdraw_tasks, queue, ids))
        for change in changes.values():
            if change.withdrawn is not None:
                self._withdrawn(change.withdrawn)
        return task_ids

    async def _still_to_do(self, changes: dict[str, _Change]) -> list[QueuedTask]:
        """What is offered, without what came to its end since the instance was loaded: it has left its queue."""
        ids = list(dict.fromkeys(one.again.instance_id for one in changes.values() if one.again is not None))
        answered: set[tuple[str, str | None, int]] = set()
        if ids:
            messages = await self._patience.insist(partial(self._backend.receive, ids))
            answered = {(one.instance_id, one.execution_id, getattr(one.event, "task_id", 0)) for one in messages}
        return [
            one.offered
            for one in changes.values()
            if one.offered is not None
            and (one.again is None or one.offered.scheduled.task_id in one.again.state.activities)
            and _key(one.offered) not in answered
        ]

    async def flush(self) -> None:
        """Wait until all changes are written."""
        await self._idle.wait()


def task_id_of(instance_id: str, execution_id: str, task_id: int) -> str:
    """The id of a call in its queue."""
    return f"{instance_id}/{execution_id}/{task_id:08d}"


def _key(task: QueuedTask) -> Key:
    return task.instance_id, task.execution_id, task.scheduled.task_id
