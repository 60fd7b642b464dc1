"""What an execution waits for: its calls and timers by task id, and how their outcomes reach the code.

Rule of this file: a task id has at most one future here. What is given up is decided, that is recorded;
what arrives for something that nobody waits for any more is dropped.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import ceil
from typing import Any

from durable.core import events as ev
from durable.core.errors import (
    ActivityFailedError,
    EntityOperationFailedError,
    SubOrchestrationFailedError,
    TaskLimitError,
)
from durable.core.external import ExternalEvents
from durable.core.futures import DurableFuture
from durable.core.loop import Handle
from durable.core.orchestration_loop import OrchestrationLoop
from durable.core.sections import Locks
from durable.core.services import CallTarget, Services

MAX_TASKS = 50_000
"""Calls and timers that one execution has open at once, and requests that it makes in one turn.

A constant, not a setting: where the code gets the error is part of what its history means, and must not change between
a turn and its replay.
"""

_FOREVER = 7_000 * 365.25 * 86_400
"""Seconds that stand for ``asyncio.sleep(math.inf)``: within what a datetime can show."""


class _Pending(DurableFuture):
    """A call without an outcome yet; ``child`` or ``entity_id`` when it is not of an activity."""

    __slots__ = ("child", "entity_id", "operation", "target")

    target: CallTarget[Any] | None
    child: ev.SubOrchestrationInstanceCreated | None
    entity_id: str | None
    operation: str


class Outstanding:
    """The futures of one execution."""

    def __init__(self, started: ev.ExecutionStarted, services: Services, loop: OrchestrationLoop) -> None:
        self.started = started
        self.services = services
        self.loop = loop
        self.timestamp = started.timestamp
        self.is_replaying = False
        self.requests_left = MAX_TASKS
        self.external = ExternalEvents()
        self.locks = Locks()
        self._finished = False
        self._last_task_id = 0
        self._calls: dict[int, _Pending] = {}
        self._timers: dict[int, Handle] = {}
        self._custom_status: str | None = None

    # --- what the subclass does ----------------------------------------------------------------

    def decide(self, decision: ev.Decision) -> None:
        """Take a decision down."""
        raise NotImplementedError

    def go_on_as(self, forked: ev.ExecutionForked) -> None:
        """Be the fork from here on; what was copied saw the identity of its origin, so that it comes out the same."""
        identity = (forked.instance_id, forked.execution_id)
        self.started = replace(
            self.started, instance_id=identity[0], execution_id=identity[1], version=forked.version, parent=None
        )

    # --- outcomes --------------------------------------------------------------------------------------------

    def complete_call(self, task_id: int, result: str) -> None:
        """A call ended well."""
        pending = self._calls.pop(task_id, None)
        if pending is None or pending.target is None:
            return
        if pending.entity_id is not None:
            self.locks.called(pending.entity_id, task_id)
        try:
            value = pending.target.decode_result(result)
        except Exception as error:
            pending.set_exception(error)
        else:
            pending.set_result(value)

    def fail_call(self, event: ev.TaskFailed | ev.SubOrchestrationInstanceFailed | ev.EntityOperationFailed) -> None:
        """A call failed."""
        pending = self._calls.pop(event.task_id, None)
        if pending is None or pending.target is None:
            return
        name, details, task_id = pending.target.name, event.failure, event.task_id
        error: Exception
        if pending.child is not None:
            error = SubOrchestrationFailedError(name, pending.child.instance_id, task_id, details)
        elif pending.entity_id is not None:
            self.locks.called(pending.entity_id, task_id)
            error = EntityOperationFailedError(pending.entity_id, pending.operation, task_id, details)
        else:
            error = ActivityFailedError(name, task_id, details, getattr(event, "heartbeat", None))
        pending.set_exception(error)

    def _call_cancelled(self, task_id: int) -> None:
        """Nobody waits for this call any more."""
        pending = None if self.loop.is_closed() else self._calls.pop(task_id, None)
        if pending is None or pending.target is None:
            return  # a critical section sees to its release itself
        if pending.entity_id is not None:
            self.locks.called(pending.entity_id, task_id)
        if not self._finished or (pending.child is None and pending.entity_id is None):
            self.decide(ev.TaskCancelRequested(self.timestamp, task_id))
        elif pending.child is not None and pending.child.parent_close != "abandon":
            terminate = pending.child.parent_close == "terminate"
            self.decide(ev.TaskCancelRequested(self.timestamp, task_id, terminate))

    # --- the end of a turn, and of the execution ---------------------------------------------------------------

    @property
    def has_calls(self) -> bool:
        """Whether a call is outstanding."""
        return bool(self._calls)

    def record_at_rest(self) -> None:
        """Record the custom status and the timers that this turn set."""
        if self._custom_status is not None:
            self.record_status()
        timers, self.loop.new_timers = self.loop.new_timers, []
        for handle, line in timers:
            if not handle.cancelled():
                self._last_task_id += 1
                handle.task_id = self._last_task_id
                self._timers[handle.task_id] = handle
                fire_at = self.started.timestamp + ceil(min(handle.when(), _FOREVER) * 1_000_000)
                self.decide(ev.TimerCreated(self.timestamp, handle.task_id, fire_at, line))

    def record_status(self) -> None:
        """Record the custom status, if this turn set one."""
        if self._custom_status is not None:
            self.decide(ev.CustomStatusSet(self.timestamp, self._custom_status))
            self._custom_status = None

    def cancel_calls(self) -> None:
        """Give up every call that is outstanding."""
        for pending in list(self._calls.values()):
            pending.cancel("the orchestrator returned")

    def release_held_locks(self) -> None:
        """Give up the critical section that the execution is in, if any."""
        self.release_locks(self.locks.task_id)

    def forget_operations(self) -> None:
        """Let go of everything, after the loop was discarded."""
        self._calls.clear()
        self._timers.clear()
        self.external.clear()

    def timer_cancelled(self, task_id: int) -> None:
        """A recorded timer is given up."""
        if not self._finished and self._timers.pop(task_id, None) is not None:
            self.decide(ev.TaskCancelRequested(self.timestamp, task_id))

    def fire_timer(self, task_id: int) -> None:
        """A timer is due."""
        handle = self._timers.pop(task_id, None)
        if handle is not None:
            self.loop.make_ready(handle)

    def seconds(self, timestamp: int) -> float:
        """A time in microseconds as the loop counts it: seconds since the execution started."""
        return (timestamp - self.started.timestamp) / 1_000_000

    def grant_locks(self, task_id: int) -> None:
        """All locks of a critical section are held."""
        pending = self._calls.pop(task_id, None)
        if pending is not None:
            self.locks.granted = True
            pending.set_result(None)

    def release_locks(self, task_id: int) -> None:
        """Give up the critical section of that task, held or wanted."""
        if self.loop.is_closed() or not task_id or self.locks.task_id != task_id:
            return
        self._calls.pop(task_id, None)
        lock_set = self.locks.lock_set
        self.locks.leave()
        for entity_id in lock_set:
            self.decide(ev.EntityUnlockSent(self.timestamp, task_id, entity_id))

    # --- limits ------------------------------------------------------------------------------------------------

    def check_room(self, what: str, name: str | None = None) -> None:
        """Make sure that one more call or timer may be open.

        Raises:
            TaskLimitError: there are ``MAX_TASKS``.
        """
        if len(self._calls) + len(self._timers) + len(self.loop.new_timers) < MAX_TASKS:
            return
        # Those cancelled in the turn that set them, as most are, leave no trace.
        self.loop.new_timers = [one for one in self.loop.new_timers if not one[0].cancelled()]
        if len(self._calls) + len(self._timers) + len(self.loop.new_timers) >= MAX_TASKS:
            raise TaskLimitError(
                f"orchestrator {self.started.name!r} asks for {_named(what, name)} with {MAX_TASKS:,} activities, "
                "sub-orchestrations, entity calls and timers open, and one execution can have no more. Have it await "
                "some of them before it asks for others, or divide the work among sub-orchestrations"
            )

    def _next_task_id(self, what: str, name: str | None = None) -> int:
        """The id of what is asked for. Raises TaskLimitError: this turn has asked for ``MAX_TASKS`` things."""
        if not self.requests_left:
            raise TaskLimitError(
                f"orchestrator {self.started.name!r} asks for {_named(what, name)} after {MAX_TASKS:,} other requests "
                "in one turn, and there can be no more. Have it await something in between"
            )
        self.requests_left -= 1
        self._last_task_id += 1
        return self._last_task_id

    def _next_call_id(self, what: str, name: str | None = None) -> int:
        """The id of a call that will be open until it has an outcome. Raises TaskLimitError: there are too many."""
        if len(self._calls) + len(self._timers) >= MAX_TASKS - len(self.loop.new_timers):
            self.check_room(what, name)
        return self._next_task_id(what, name)

    # --- helpers -----------------------------------------------------------------------------------------------

    def _wait_for(
        self,
        task_id: int,
        target: CallTarget[Any] | None,
        *,
        child: ev.SubOrchestrationInstanceCreated | None = None,
        entity_id: str | None = None,
        operation: str = "",
    ) -> DurableFuture:
        pending = self._calls[task_id] = _Pending(task_id, self._call_cancelled, loop=self.loop)
        pending.target, pending.child, pending.entity_id, pending.operation = target, child, entity_id, operation
        return pending

    def _refuse_when_finished(self, what: str, name: str | None = None) -> None:
        self.loop.check_not_discarded()
        if self._finished:
            raise asyncio.CancelledError(
                f"{_named(what, name)} was asked for after the orchestrator returned; await it before"
            )


def _named(what: str, name: str | None) -> str:
    return what if name is None else f"{what} {name!r}"
