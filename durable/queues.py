"""Activity queues as they are declared: limits, and how the turn of a call follows from its priority and its age.

Rule of this file: values and arithmetic. What a store does with them is in ``durable.tasks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from durable.core.errors import RegistrationError
from durable.core.event_parts import QueuePlace
from durable.tasks import QueueLimits

MAX_PRIORITY = 1000
"""Priorities are whole numbers from ``-MAX_PRIORITY`` to this."""

_MICROSECOND = timedelta(microseconds=1)
_NEVER = timedelta(days=3650)
"""What a step of priority is worth in a queue where waiting does not raise it."""


@dataclass(frozen=True, slots=True)
class ActivityQueue:
    """A named queue of activity calls, the same in every process of a hub; see :meth:`durable.Registry.queue`.

    Raises RegistrationError for a name or a limit that makes no sense.
    """

    name: str
    concurrency: int | None = None
    worker_concurrency: int | None = None
    per_key: int | None = None
    rate: float | None = None
    burst: int | None = None
    ageing: timedelta | None = None

    def __post_init__(self) -> None:
        name = self.name
        if not name or len(name) > 256 or name != name.strip() or not name.isprintable() or "," in name:
            raise RegistrationError(
                f"{name!r} cannot name a queue: it must have 1 to 256 printable characters without space at either end "
                "and without a comma"
            )
        for limit in ("concurrency", "worker_concurrency", "per_key", "rate", "burst"):
            number = getattr(self, limit)
            if number is not None and not 0 < number < 1_000_000_000:
                raise RegistrationError(f"{limit} of queue {name!r} must be greater than zero, not {number!r}")
        if self.burst is not None and self.rate is None:
            raise RegistrationError(f"burst of queue {name!r} needs a rate")
        if self.ageing is not None and not _MICROSECOND <= self.ageing <= _NEVER:
            raise RegistrationError(f"ageing of queue {name!r} must be from 1 µs to 10 years, not {self.ageing}")

    @property
    def limits(self) -> QueueLimits:
        """What the store is to see to."""
        interval = None if self.rate is None else max(1, round(1_000_000 / self.rate))
        return QueueLimits(self.concurrency, self.per_key, interval, self.burst or 1)

    def rank(self, priority: int, offered_at: int) -> int:
        """The turn of a call, the lowest first: a step of priority is worth ``ageing`` of waiting.

        So the order of two calls never changes while they wait, and a store can keep it in an index.
        """
        return offered_at - priority * ((self.ageing or _NEVER) // _MICROSECOND)


def queue_place(
    former: QueuePlace | None, queue: str | None, priority: int | None, key: str | None, what: str
) -> QueuePlace | None:
    """``former`` with what is given in its place. Raises ValueError when that makes no sense for ``what``."""
    if queue is None and priority is None and key is None:
        return former
    if former is None and queue is None:
        raise ValueError(f"priority and key of {what} need a queue")
    if priority is not None and not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise ValueError(f"priority of {what} must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}")
    base = former or QueuePlace(queue or "")
    return QueuePlace(queue or base.name, base.priority if priority is None else priority, key or base.key)
