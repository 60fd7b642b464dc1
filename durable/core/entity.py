"""Entities: which of the waiting operations may go on, given who holds the lock.

Rule of this file: pure. An entity does one operation at a time in the order of arrival; while a
critical section holds it, only that section's operations pass, and all others keep their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from durable.core import events as ev

Address: TypeAlias = tuple[str, str, int]
"""A critical section: instance, execution and task id."""

Request: TypeAlias = (
    ev.EntityOperationCalled | ev.EntityOperationSignaled | ev.EntityLockRequested | ev.EntityUnlockSent
)
T = TypeVar("T")


def section_of(event: ev.EntityLockRequested | ev.EntityUnlockSent) -> Address:
    """The critical section that an event speaks for."""
    return event.caller_id or "", event.caller_execution_id or "", event.task_id


def admitted(locked_by: Address | None, requests: Sequence[tuple[T, Request]], most: int) -> list[T]:
    """The labels of the first ``most`` requests that can be dealt with now, in the order in which they are to be.

    What a release lets in keeps its place: it goes before what came after it.
    """
    taken: list[T] = []
    queue = list(requests)
    position = 0
    while position < len(queue) and len(taken) < most:
        label, request = queue[position]
        lock = locked_by
        passes, locked_by = _step(locked_by, request)
        if not passes:
            position += 1
            continue
        taken.append(label)
        del queue[position]
        if isinstance(request, ev.EntityUnlockSent):
            # A request of the section that is still waiting is void.
            void = [one for one in queue if _is_request_of(one[1], section_of(request))]
            taken += [label for label, _ in void]
            queue = [one for one in queue if one not in void]
            position = 0 if lock != locked_by else min(position, len(queue))
    return taken[:most]


def _is_request_of(request: Request, section: Address) -> bool:
    return isinstance(request, ev.EntityLockRequested) and section_of(request) == section


def _step(locked_by: Address | None, request: Request) -> tuple[bool, Address | None]:
    """Whether a request passes, and who holds the lock after it."""
    match request:
        case ev.EntityUnlockSent():
            return True, None if section_of(request) == locked_by else locked_by
        case ev.EntityLockRequested():
            section = section_of(request)
            return locked_by in (None, section), locked_by or section
        case ev.EntityOperationCalled():
            holder = None if locked_by is None else locked_by[:2]
            return holder in (None, (request.caller_id, request.caller_execution_id)), locked_by
        case _:
            return locked_by is None, locked_by


def lock(request: ev.EntityLockRequested, timestamp: int) -> ev.EntityLockRequested | ev.EntityLockGranted:
    """What follows when the entity is locked: the next entity is asked, or the section is told that it has them all."""
    position = request.position + 1
    if position < len(request.lock_set):
        return ev.EntityLockRequested(
            timestamp,
            request.task_id,
            request.lock_set,
            position,
            None,
            request.caller_id,
            request.caller_execution_id,
        )
    return ev.EntityLockGranted(
        timestamp, request.task_id, request.lock_set, request.caller_id, request.caller_execution_id
    )
