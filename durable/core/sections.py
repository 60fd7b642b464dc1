"""Critical sections: holding the locks of several entities, and the rules of what may be done meanwhile.

The rules are those of Durable Functions (docs, "Critical sections"); each violation is a
LockingRulesViolationError and changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from durable.core.errors import LockingRulesViolationError

if TYPE_CHECKING:
    from durable.core.replay import Orchestration


class Locks:
    """The critical section of one execution, if it is in one: at most one at a time."""

    def __init__(self) -> None:
        self.task_id = 0
        self.lock_set: tuple[str, ...] = ()
        self.granted = False
        self._calling: dict[str, int] = {}  # by entity, the task of the call that is pending

    def check_enter(self) -> None:
        """A section may be entered only outside of one."""
        if self.lock_set:
            raise LockingRulesViolationError("Must not enter another critical section from within a critical section.")

    def check_child(self) -> None:
        """No sub-orchestration within a section: it could call the locked entities and never come back."""
        if self.lock_set:
            raise LockingRulesViolationError("While holding locks, cannot call suborchestrators.")

    def check_signal(self, entity_id: str) -> None:
        """No signal to a locked entity."""
        if entity_id in self.lock_set:
            raise LockingRulesViolationError(
                f"Must not signal a locked entity from a critical section. ({entity_id} is locked here)"
            )

    def check_call(self, entity_id: str) -> None:
        """In a section: calls to locked entities only, one at a time each, and not before the locks are granted."""
        if not self.lock_set:
            return
        if not self.granted:
            raise LockingRulesViolationError(
                f"Must not call an entity ({entity_id}) before the locks of the critical section are granted."
            )
        if entity_id not in self.lock_set:
            raise LockingRulesViolationError(
                f"Must not call an entity from a critical section if it is not one of the locked entities. "
                f"({entity_id} is not among {', '.join(self.lock_set)})"
            )
        if entity_id in self._calling:
            raise LockingRulesViolationError(
                "Must not call an entity from a critical section while a prior call to the same entity is still "
                f"pending. ({entity_id})"
            )

    def calling(self, entity_id: str, task_id: int) -> None:
        if self.lock_set:
            self._calling[entity_id] = task_id

    def called(self, entity_id: str, task_id: int) -> None:
        if self._calling.get(entity_id) == task_id:  # it may be a call from before the section
            del self._calling[entity_id]

    def enter(self, task_id: int, lock_set: tuple[str, ...]) -> None:
        self.task_id, self.lock_set, self.granted = task_id, lock_set, False

    def leave(self) -> None:
        self.task_id, self.lock_set, self.granted = 0, (), False
        self._calling.clear()


class CriticalSection:
    """``async with ctx.lock(*entities):`` - the entities are locked within the block, whichever way it is left."""

    def __init__(self, orchestration: Orchestration, lock_set: tuple[str, ...]) -> None:
        self._orchestration = orchestration
        self._lock_set = lock_set
        self._task_id = 0

    async def __aenter__(self) -> Self:
        if self._task_id:
            raise RuntimeError("a critical section can be entered once; call ctx.lock again")
        granted = self._orchestration.request_locks(self._lock_set)
        self._task_id = self._orchestration.locks.task_id
        try:
            await granted
        except asyncio.CancelledError:
            self._orchestration.release_locks(self._task_id)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._orchestration.release_locks(self._task_id)
