"""The state of an instance as its history tells it: a fold over events, no user code involved.

Rule of this file: everything that can be known about an instance without running its
orchestrator is derived here, one event at a time, so that status, recovery and wake-up
times can be rebuilt from history by anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from durable.core import events as ev
from durable.core.calls import Call, call_of
from durable.core.errors import FailureDetails


class RuntimeStatus(StrEnum):
    """Status of an instance; the values of the Durable Functions HTTP API."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    TERMINATED = "Terminated"

    is_terminal: bool
    """Whether the instance has ended and will never run again, unless it is rewound."""

    def __init__(self, value: str) -> None:
        self.is_terminal = value in ("Completed", "Failed", "Canceled", "Terminated")


@dataclass(slots=True)
class InstanceState:
    """What the events so far add up to.

    By task id, what is outstanding: ``activities`` (to be run here), ``deferred`` ones (completed from outside),
    ``timers``, ``children``, entity ``calls``, ``lock_requests``; and the critical ``sections`` that are held.
    ``last_asked`` is the highest task id that awaits or awaited an answer.
    ``taken`` are the ids of the messages that this execution took in. ``kept`` are results from before a rewind by
    what was called, ``answers`` those of them that answer an outstanding task. ``again`` is what a fork has still to
    be given of what its origin received.
    """

    status: RuntimeStatus = RuntimeStatus.PENDING
    started: ev.ExecutionStarted | None = None
    continued: ev.ContinueAsNew | None = None
    last_timestamp: int = 0
    length: int = 0
    last_asked: int = 0
    activities: dict[int, ev.TaskScheduled] = field(default_factory=dict)
    timers: dict[int, int] = field(default_factory=dict)
    deferred: set[int] = field(default_factory=set)
    children: dict[int, ev.SubOrchestrationInstanceCreated] = field(default_factory=dict)
    calls: dict[int, ev.EntityOperationCalled] = field(default_factory=dict)
    lock_requests: dict[int, ev.EntityLockRequested] = field(default_factory=dict)
    sections: dict[int, ev.EntityLockRequested] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    rewinding: bool = False
    kept: dict[Call, list[str]] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    again: list[ev.ArrivedAgain] = field(default_factory=list)
    entity: ev.EntityStateSet | None = None
    custom_status: str | None = None
    output: str | None = None
    failure: FailureDetails | None = None

    def accepts(self, event: ev.ArrivedEvent) -> bool:
        """Whether ``event`` is news: an answer to something outstanding, or what was never taken in."""
        if self.status.is_terminal:
            return type(event) is ev.ExecutionRewound and self.status is not RuntimeStatus.COMPLETED
        outstanding = _ANSWERS.get(type(event))
        if outstanding is not None:
            return event.task_id in outstanding(self)  # type: ignore[union-attr]
        if type(event) is ev.ExecutionStarted:
            return self.started is None
        if type(event) is ev.ExecutionRewound:
            return self.rewinding
        return event.message_id not in self.taken  # type: ignore[union-attr, operator]

    def due_timers(self, now: int) -> list[ev.TimerFired]:
        """The timers that are due at ``now``, in the order in which they fire; none while suspended."""
        if self.status is RuntimeStatus.SUSPENDED:
            return []
        due = sorted((fire_at, task_id) for task_id, fire_at in self.timers.items() if fire_at <= now)
        return [ev.TimerFired(now, task_id, fire_at) for fire_at, task_id in due]

    @property
    def due_at(self) -> int | None:
        """When the owner next has something to do: 0 for now, None for not before a message arrives."""
        if self.status.is_terminal:
            return None
        if self.activities or self.continued is not None or self.again:
            return 0
        if self.entity is not None:
            scheduled = () if self.entity.locked_by else self.entity.scheduled
            return min((signal.scheduled_at or 0 for signal in scheduled), default=None)
        if self.status is RuntimeStatus.SUSPENDED:
            return None
        return min(self.timers.values(), default=None)

    @property
    def next_timer(self) -> int | None:
        """When a timer or a scheduled signal is next to fire, also of an instance that has something to do now."""
        if not self.timers and self.entity is None:
            return None  # as for most
        due_at = self.due_at or None
        if due_at is None and self.timers and self.status is not RuntimeStatus.SUSPENDED:
            return min(self.timers.values())  # while suspended, a timer that is due does not fire
        return due_at

    @property
    def answerable(self) -> bool:
        """Whether an activity, timer, child or entity will wake the instance some day."""
        return bool(
            self.activities or self.timers or self.deferred or self.children or self.calls or self.lock_requests
        )

    def apply_all(self, events: Sequence[ev.HistoryEvent]) -> None:
        """Fold ``events``, in order."""
        self.length += len(events)
        for event in events:
            if type(event) is ev.OrchestratorStarted:  # in every turn
                self.last_timestamp = event.timestamp
                continue
            fold = _FOLDS.get(type(event))
            if fold is not None:
                fold(self, event)
            if self.kept or self.again:
                self._look_back(event)

    def apply(self, event: ev.HistoryEvent) -> None:
        """Fold one event."""
        self.apply_all((event,))

    def use_kept(self, event: ev.HistoryEvent) -> None:
        """Answer a call with the result that the same call had before the execution was rewound."""
        call = call_of(event)
        results = None if call is None else self.kept.get(call)
        if call is not None and results:
            self.answers[event.task_id] = results.pop(0)  # type: ignore[union-attr]
            if not results:
                del self.kept[call]

    def _look_back(self, event: ev.HistoryEvent) -> None:
        """What an event means to a rewound execution, or to a fork."""
        self.use_kept(event)
        if event in self.again:
            self.again.remove(event)

    def close(self) -> None:
        """Forget all that is outstanding: nothing of it matters any more."""
        for table in (self.activities, self.timers, self.children, self.calls, self.lock_requests, self.sections):
            table.clear()
        self.deferred.clear()


_ANSWERS: dict[type[Any], Callable[[InstanceState], Any]] = {
    ev.TaskCompleted: lambda state: state.activities.keys() | state.deferred if state.deferred else state.activities,
    ev.TaskFailed: lambda state: state.activities.keys() | state.deferred if state.deferred else state.activities,
    ev.TaskDeferred: lambda state: state.activities,
    ev.TimerFired: lambda state: state.timers,
    ev.SubOrchestrationInstanceCompleted: lambda state: state.children,
    ev.SubOrchestrationInstanceFailed: lambda state: state.children,
    ev.EntityOperationCompleted: lambda state: state.calls,
    ev.EntityOperationFailed: lambda state: state.calls,
    ev.EntityLockGranted: lambda state: state.lock_requests,
}
"""Answers by task id, and where an outstanding question is found."""


def _started(state: InstanceState, event: ev.ExecutionStarted) -> None:
    state.started = event
    state.status = RuntimeStatus.RUNNING
    state.last_timestamp = event.timestamp


def _scheduled(state: InstanceState, event: ev.TaskScheduled) -> None:
    state.activities[event.task_id] = event
    state.last_asked = event.task_id


def _task_ended(state: InstanceState, event: ev.TaskCompleted | ev.TaskFailed) -> None:
    if state.activities.pop(event.task_id, None) is None:
        state.deferred.discard(event.task_id)
    if state.answers:
        state.answers.pop(event.task_id, None)


def _task_deferred(state: InstanceState, event: ev.TaskDeferred) -> None:
    if state.activities.pop(event.task_id, None) is not None:
        state.deferred.add(event.task_id)


def _cancelled(state: InstanceState, event: ev.TaskCancelRequested) -> None:
    for table in (state.activities, state.timers, state.children, state.calls):
        table.pop(event.task_id, None)
    state.deferred.discard(event.task_id)
    state.answers.pop(event.task_id, None)


def _timer_created(state: InstanceState, event: ev.TimerCreated) -> None:
    state.timers[event.task_id] = event.fire_at


def _timer_fired(state: InstanceState, event: ev.TimerFired) -> None:
    state.timers.pop(event.task_id, None)


def _child_created(state: InstanceState, event: ev.SubOrchestrationInstanceCreated) -> None:
    if not event.detached:
        state.children[event.task_id] = event
        state.last_asked = event.task_id


def _child_ended(
    state: InstanceState, event: ev.SubOrchestrationInstanceCompleted | ev.SubOrchestrationInstanceFailed
) -> None:
    state.children.pop(event.task_id, None)
    state.answers.pop(event.task_id, None)


def _called(state: InstanceState, event: ev.EntityOperationCalled) -> None:
    if event.caller_id is None:
        state.calls[event.task_id] = event
        state.last_asked = event.task_id
    else:
        _taken(state, event)


def _call_ended(state: InstanceState, event: ev.EntityOperationCompleted | ev.EntityOperationFailed) -> None:
    if event.caller_id is None:
        state.calls.pop(event.task_id, None)
        state.answers.pop(event.task_id, None)


def _lock_requested(state: InstanceState, event: ev.EntityLockRequested) -> None:
    if event.caller_id is None:
        state.lock_requests[event.task_id] = event
        state.last_asked = event.task_id
    else:
        _taken(state, event)


def _lock_granted(state: InstanceState, event: ev.EntityLockGranted) -> None:
    request = state.lock_requests.pop(event.task_id, None)
    if request is not None:
        state.sections[event.task_id] = request


def _unlocked(state: InstanceState, event: ev.EntityUnlockSent) -> None:
    if event.caller_id is None:
        state.lock_requests.pop(event.task_id, None)
        state.sections.pop(event.task_id, None)
    else:
        _taken(state, event)


def _entity_set(state: InstanceState, event: ev.EntityStateSet) -> None:
    state.entity = event
    state.output = event.state


def _status_set(state: InstanceState, event: ev.CustomStatusSet) -> None:
    state.custom_status = event.status


def _taken(state: InstanceState, event: Any) -> None:
    if event.message_id is not None:
        state.taken.add(event.message_id)


def _suspended(state: InstanceState, event: ev.ExecutionSuspended) -> None:
    _taken(state, event)
    state.status = RuntimeStatus.SUSPENDED


def _resumed(state: InstanceState, event: ev.ExecutionResumed) -> None:
    _taken(state, event)
    if state.status is RuntimeStatus.SUSPENDED:
        state.status = RuntimeStatus.RUNNING


def _rewound(state: InstanceState, event: ev.ExecutionRewound) -> None:
    _taken(state, event)
    state.rewinding = False


def _forked(state: InstanceState, event: ev.ExecutionForked) -> None:
    state.again = list(event.events)


def _continued(state: InstanceState, event: ev.ContinueAsNew) -> None:
    state.continued = event
    state.close()


def _completed(state: InstanceState, event: ev.ExecutionCompleted) -> None:
    state.status = RuntimeStatus(event.status)
    state.output, state.failure = event.result, event.failure
    state.close()


_FOLDS: dict[type[Any], Callable[[InstanceState, Any], None]] = {
    ev.TaskScheduled: _scheduled,
    ev.TaskCompleted: _task_ended,
    ev.TaskFailed: _task_ended,
    ev.TaskDeferred: _task_deferred,
    ev.TaskCancelRequested: _cancelled,
    ev.TimerCreated: _timer_created,
    ev.TimerFired: _timer_fired,
    ev.SubOrchestrationInstanceCreated: _child_created,
    ev.SubOrchestrationInstanceCompleted: _child_ended,
    ev.SubOrchestrationInstanceFailed: _child_ended,
    ev.EventRaised: _taken,
    ev.EntityOperationCalled: _called,
    ev.EntityOperationSignaled: _taken,
    ev.EntityOperationCompleted: _call_ended,
    ev.EntityOperationFailed: _call_ended,
    ev.EntityLockRequested: _lock_requested,
    ev.EntityLockGranted: _lock_granted,
    ev.EntityUnlockSent: _unlocked,
    ev.EntityStateSet: _entity_set,
    ev.CustomStatusSet: _status_set,
    ev.ExecutionStarted: _started,
    ev.ExecutionSuspended: _suspended,
    ev.ExecutionResumed: _resumed,
    ev.ExecutionRewound: _rewound,
    ev.ExecutionForked: _forked,
    ev.ExecutionTerminated: _taken,
    ev.ExecutionCancelRequested: _taken,
    ev.ContinueAsNew: _continued,
    ev.ExecutionCompleted: _completed,
}
"""What each kind of event changes; the others only count."""
