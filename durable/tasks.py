"""Activity queues: what a store offers beyond the port for activities that chosen workers run.

Rule of this file: what is asked of the store, and the arithmetic of the limits, which all stores share. Nothing that
history depends on is here: a task that is lost is offered again by whoever owns its instance, and one that runs twice
has one outcome, as its instance takes in the first. A claim is a lease, by the workers' clocks as those of partitions
are. All times are integer microseconds since the epoch, UTC, and are passed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, runtime_checkable

from durable.backend import Backend, BackendError
from durable.core.events import TaskScheduled
from durable.core.values import value


class QueuesNotSupportedError(BackendError):
    """The store of this task hub keeps no activity queues."""


@value
class QueuedTask:
    """A call of an activity that waits in a queue, or runs.

    ``task_id`` is the call's place: instance, execution, task. ``rank`` is its turn: the lowest is claimed first, of
    equals the lowest ``task_id``. ``number`` counts its deliveries, the one of this claim included; 0 when offered.
    """

    task_id: str
    queue: str
    name: str
    rank: int
    key: str | None
    instance_id: str
    execution_id: str
    scheduled: TaskScheduled
    offered_at: int
    number: int = 0


@value
class QueueLimits:
    """What a queue allows at once in the whole hub: claims, claims of one key, and starts within a time.

    ``interval`` is the time (microseconds) that one start takes from the allowance, of which there are at most
    ``burst`` starts. None: no limit.
    """

    concurrency: int | None = None
    per_key: int | None = None
    interval: int | None = None
    burst: int = 1


@value
class Claims:
    """What was claimed, and when it is worth asking again unless a hint comes first; None: not before one comes."""

    tasks: tuple[QueuedTask, ...]
    next_at: int | None


@runtime_checkable
class QueueBackend(Protocol):
    """A backend whose store keeps activity queues. All methods may raise BackendUnavailable (in doubt, repeat)."""

    async def offer_tasks(self, tasks: Sequence[QueuedTask]) -> None:
        """Insert the tasks whose ``task_id`` is new; the others stay as they are. Durable on return."""
        ...

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
        """Claim until ``now + ttl`` at most ``limit`` tasks of a queue that call one of ``names``, by rank.

        Free are those that nobody has claimed, or whose claim has expired; each claim raises ``number`` by one. Of
        claims at once it is as if one came after the other: after each there are at most ``concurrency`` unexpired
        claims in the queue and at most ``per_key`` with one key (tasks without one are not counted there), and no more
        starts than ``interval`` and ``burst`` allow. What ``worker_id`` holds and does not name in ``holding`` was
        claimed by a call whose answer was lost: it comes first, as it is, and counts towards ``limit``.
        """
        ...

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        """Extend those of these claims that ``worker_id`` holds, if unexpired, to ``now + ttl``; return them.

        An expired one is lost even if nobody has it: its room may have been given to another task.
        """
        ...

    async def release_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """Give back those of these claims that ``worker_id`` holds: free at once, and this delivery is not counted."""
        ...

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """Delete those of these tasks that ``worker_id`` holds, with their claims."""
        ...

    async def withdraw_tasks(self, queue: str, task_ids: Sequence[str]) -> None:
        """Delete these tasks, claimed or not; who has claimed one learns of it by :meth:`renew_tasks`."""
        ...


def with_queues(backend: Backend, what: str) -> QueueBackend:
    """``backend`` as one that keeps queues, for ``what``. Raises QueuesNotSupportedError."""
    if isinstance(backend, QueueBackend):
        return backend
    raise QueuesNotSupportedError(f"{what} needs a store with activity queues, which {type(backend).__name__} has not")


class Room:
    """What limits leave for one claim, given the keys of the unexpired claims and when the allowance is whole again."""

    def __init__(self, limits: QueueLimits, held: Iterable[str | None], whole_at: int, now: int, limit: int) -> None:
        keys = list(held)
        self._limits = limits
        self._now = now
        self._by_key: dict[str, int] = {}
        for key in keys:
            self._count(key)
        self.whole_at = whole_at
        self._left = limit
        if limits.concurrency is not None:
            self._left = min(limit, limits.concurrency - len(keys))
        self.started = 0

    @property
    def has_start(self) -> bool:
        """Whether the rate allows one more start."""
        return self._limits.interval is None or self.next_start <= self._now

    @property
    def next_start(self) -> int:
        """When the rate allows the next start."""
        return self.whole_at - (self._limits.burst - 1) * (self._limits.interval or 0)

    @property
    def is_left(self) -> bool:
        """Whether a task may be claimed, were it of a key that is free."""
        return self._left > 0 and self.has_start

    @property
    def full_keys(self) -> list[str]:
        """The keys of which no more may be claimed."""
        most = self._limits.per_key
        return [] if most is None else [key for key, count in self._by_key.items() if count >= most]

    def take(self, key: str | None) -> bool:
        """Count one more claim, of that key, if there is room for it."""
        most = self._limits.per_key
        if not self.is_left or (most is not None and key is not None and self._by_key.get(key, 0) >= most):
            return False
        self._left -= 1
        self.started += 1
        self._count(key)
        if self._limits.interval is not None:
            self.whole_at = max(self.whole_at, self._now) + self._limits.interval
        return True

    def next_at(self, waits: bool, expiries: Iterable[int], *, is_full: bool) -> int | None:
        """The ``next_at`` of the claims: ``waits`` says whether a free task is left, ``is_full`` that the limit is met.

        ``expiries`` are when the unexpired claims end.
        """
        if waits and is_full:
            return self._now
        times = list(expiries)
        if waits and not self.has_start:
            times.append(self.next_start)
        return min(times, default=None)

    def _count(self, key: str | None) -> None:
        if key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1
