"""MemoryTasks: activity queues in plain dicts; the reference that says what ``durable.tasks`` means.

Rule of this file: small and obviously right; each operation runs in one step of the event loop, which makes it atomic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from durable.tasks import Claims, QueuedTask, QueueLimits, Room


@dataclass(slots=True)
class StoredTask:
    """A task in the store: who has claimed it until when, and how often it was delivered."""

    task: QueuedTask
    worker_id: str | None = None
    until: int = 0
    number: int = 0


@dataclass(slots=True)
class StoredQueues:
    """All tasks by id, and by queue when its allowance of starts is whole again."""

    tasks: dict[str, StoredTask] = field(default_factory=dict)
    whole_at: dict[str, int] = field(default_factory=dict)

    def of(self, queue: str) -> list[StoredTask]:
        """The tasks of a queue in the order of their turns."""
        found = [stored for stored in self.tasks.values() if stored.task.queue == queue]
        return sorted(found, key=lambda stored: (stored.task.rank, stored.task.task_id))

    def held(self, queue: str, worker_id: str, task_ids: Iterable[str]) -> list[StoredTask]:
        """Those of these tasks that ``worker_id`` has claimed."""
        found = (self.tasks.get(task_id) for task_id in task_ids)
        return [one for one in found if one is not None and one.task.queue == queue and one.worker_id == worker_id]


class MemoryTasks:
    """The part of a memory backend that is a :class:`durable.tasks.QueueBackend`."""

    def _queues(self) -> StoredQueues:
        """The queues of the open store."""
        raise NotImplementedError

    def _queue_changed(self, queue: str) -> None:
        """Tell the others on the store."""
        raise NotImplementedError

    async def offer_tasks(self, tasks: Sequence[QueuedTask]) -> None:
        """See :meth:`durable.tasks.QueueBackend.offer_tasks`."""
        stored = self._queues().tasks
        for task in tasks:
            stored.setdefault(task.task_id, StoredTask(task))
        for queue in dict.fromkeys(task.queue for task in tasks):
            self._queue_changed(queue)

    async def claim_tasks(
        self,
        queue: str,
        limits: QueueLimits,
        worker_id: str,
        now: int,
        ttl: int,
        *,
        names: Collection[str],
        limit: int,
        holding: Collection[str] = (),
    ) -> Claims:
        """See :meth:`durable.tasks.QueueBackend.claim_tasks`."""
        queues = self._queues()
        tasks = queues.of(queue)
        live = [one for one in tasks if one.until > now]
        lost = [one for one in live if one.worker_id == worker_id and one.task.task_id not in holding][:limit]
        keys = (one.task.key for one in live)
        room = Room(limits, keys, queues.whole_at.get(queue, 0), now, limit - len(lost))
        taken: list[StoredTask] = []
        waits = False
        for one in tasks:
            if one.until > now or one.task.name not in names:
                continue
            if room.take(one.task.key):
                one.worker_id, one.until, one.number = worker_id, now + ttl, one.number + 1
                taken.append(one)
            else:
                waits = True
        queues.whole_at[queue] = room.whole_at
        claimed = tuple(replace(one.task, number=one.number) for one in (*lost, *taken))
        return Claims(claimed, room.next_at(waits, (one.until for one in live), is_full=len(claimed) >= limit))

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        """See :meth:`durable.tasks.QueueBackend.renew_tasks`."""
        held = [one for one in self._queues().held(queue, worker_id, task_ids) if one.until > now]
        for one in held:
            one.until = now + ttl
        return {one.task.task_id for one in held}

    async def release_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.release_tasks`."""
        for one in self._queues().held(queue, worker_id, task_ids):
            one.worker_id, one.until, one.number = None, 0, one.number - 1
        self._queue_changed(queue)

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.finish_tasks`."""
        queues = self._queues()
        for one in queues.held(queue, worker_id, task_ids):
            del queues.tasks[one.task.task_id]
        self._queue_changed(queue)

    async def withdraw_tasks(self, queue: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.withdraw_tasks`."""
        tasks = self._queues().tasks
        for task_id in task_ids:
            if task_id in tasks and tasks[task_id].task.queue == queue:
                del tasks[task_id]
        self._queue_changed(queue)
