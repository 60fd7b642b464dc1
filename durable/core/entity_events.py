"""History events of entities: in the caller's history, in the message, and in the entity's own history.

Rule of this file: as in ``events.py``, values only. The caller's address (``caller_id`` and its execution;
``task_id`` is the call's) is set in the message and in the entity's history, not in the caller's.
"""

from __future__ import annotations

from dataclasses import field

from durable.core.errors import FailureDetails
from durable.core.values import value


@value
class EntityOperationCalled:
    """An operation whose caller waits; the caller's address is set in the message and in the entity's history.

    ``root`` is the top of the caller's tree, as in EventRaised.
    """

    type: str = field(init=False, default="EntityOperationCalled", repr=False)
    timestamp: int
    task_id: int
    entity_id: str
    operation: str
    input: str
    at: str | None = None
    caller_id: str | None = None
    caller_execution_id: str | None = None
    message_id: str | None = None
    root: tuple[str, ...] | None = None


@value
class EntityOperationSignaled:
    """An operation that nobody waits for, not before ``scheduled_at``."""

    type: str = field(init=False, default="EntityOperationSignaled", repr=False)
    timestamp: int
    task_id: int
    entity_id: str
    operation: str
    input: str
    scheduled_at: int | None = None
    message_id: str | None = None
    traceparent: str | None = None
    root: tuple[str, ...] | None = None


@value
class EntityOperationCompleted:
    type: str = field(init=False, default="EntityOperationCompleted", repr=False)
    timestamp: int
    task_id: int
    result: str
    caller_id: str | None = None
    caller_execution_id: str | None = None


@value
class EntityOperationFailed:
    type: str = field(init=False, default="EntityOperationFailed", repr=False)
    timestamp: int
    task_id: int
    failure: FailureDetails
    caller_id: str | None = None
    caller_execution_id: str | None = None


@value
class EntityLockRequested:
    """A critical section wants ``lock_set``, in that order; ``position`` is the next one to be asked."""

    type: str = field(init=False, default="EntityLockRequested", repr=False)
    timestamp: int
    task_id: int
    lock_set: tuple[str, ...]
    position: int = 0
    at: str | None = None
    caller_id: str | None = None
    caller_execution_id: str | None = None
    message_id: str | None = None


@value
class EntityLockGranted:
    """All of ``lock_set`` is locked for the critical section ``task_id``."""

    type: str = field(init=False, default="EntityLockGranted", repr=False)
    timestamp: int
    task_id: int
    lock_set: tuple[str, ...]
    caller_id: str | None = None
    caller_execution_id: str | None = None


@value
class EntityUnlockSent:
    """The critical section ``task_id`` gives ``entity_id`` back, or no longer wants it."""

    type: str = field(init=False, default="EntityUnlockSent", repr=False)
    timestamp: int
    task_id: int
    entity_id: str
    caller_id: str | None = None
    caller_execution_id: str | None = None
    message_id: str | None = None


@value
class EntityStateSet:
    """An entity after a batch of operations. ``state`` None: deleted. ``locked_by`` is a critical section's address.

    ``scheduled`` are signals that are not due yet. ``traces`` are what the code of the batch's operations put on its
    spans, as JSON text, by message id.
    """

    type: str = field(init=False, default="EntityStateSet", repr=False)
    timestamp: int
    state: str | None = None
    locked_by: tuple[str, str, int] | None = None
    scheduled: tuple[EntityOperationSignaled, ...] = ()
    traces: tuple[tuple[str, str], ...] | None = None
