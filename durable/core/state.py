"""The state of an instance as its history tells it: a fold over events, no user code involved.

Rule of this file: everything that can be known about an instance without running its
orchestrator is derived here, one event at a time, so that status, recovery and wake-up
times can be rebuilt from history by anyone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from durable.core.errors import FailureDetails
from durable.core.events import (
    ArrivedEvent,
    CustomStatusSet,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    OrchestratorCompleted,
    OrchestratorStarted,
    TaskCancelRequested,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)


class RuntimeStatus(StrEnum):
    """Status of an instance; the values of the Durable Functions HTTP API."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the instance has ended and will never run again."""
        return self in _TERMINAL


_TERMINAL = frozenset({RuntimeStatus.COMPLETED, RuntimeStatus.FAILED})


@dataclass(slots=True)
class InstanceState:
    """What the events so far add up to. ``activities`` and ``timers`` are the outstanding ones by task id."""

    status: RuntimeStatus = RuntimeStatus.PENDING
    started: ExecutionStarted | None = None
    last_timestamp: int = 0
    length: int = 0
    activities: dict[int, TaskScheduled] = field(default_factory=dict)
    timers: dict[int, int] = field(default_factory=dict)
    custom_status: str | None = None
    output: str | None = None
    failure: FailureDetails | None = None

    def accepts(self, event: ArrivedEvent) -> bool:
        """Whether ``event`` is news: an answer to something outstanding, given for the first time."""
        if self.status.is_terminal:
            return False
        match event:
            case ExecutionStarted():
                return self.started is None
            case TaskCompleted() | TaskFailed():
                return event.task_id in self.activities
            case TimerFired():
                return event.task_id in self.timers
            case _:
                assert_never(event)

    def due_timers(self, now: int) -> list[TimerFired]:
        """The timers that are due at ``now``, in the order in which they fire."""
        due = sorted((fire_at, task_id) for task_id, fire_at in self.timers.items() if fire_at <= now)
        return [TimerFired(now, task_id, fire_at) for fire_at, task_id in due]

    @property
    def due_at(self) -> int | None:
        """When the owner next has something to do: 0 for now, None for not before a message arrives."""
        if self.status.is_terminal:
            return None
        if self.activities:
            return 0
        return min(self.timers.values(), default=None)

    def apply_all(self, events: Iterable[HistoryEvent]) -> None:
        """Fold ``events``, in order."""
        for event in events:
            self.apply(event)

    def apply(self, event: HistoryEvent) -> None:
        """Fold one event."""
        self.length += 1
        match event:  # the most frequent first
            case OrchestratorStarted():
                self.last_timestamp = event.timestamp
            case OrchestratorCompleted():
                pass
            case TaskScheduled():
                self.activities[event.task_id] = event
            case TaskCompleted() | TaskFailed():
                self.activities.pop(event.task_id, None)
            case TimerCreated():
                self.timers[event.task_id] = event.fire_at
            case TimerFired():
                self.timers.pop(event.task_id, None)
            case TaskCancelRequested():
                self.activities.pop(event.task_id, None)
                self.timers.pop(event.task_id, None)
            case CustomStatusSet():
                self.custom_status = event.status
            case ExecutionStarted():
                self.started = event
                self.status = RuntimeStatus.RUNNING
                self.last_timestamp = event.timestamp
            case ExecutionCompleted():
                self._complete(event)
            case _:
                assert_never(event)

    def _complete(self, event: ExecutionCompleted) -> None:
        self.status = RuntimeStatus(event.status)
        self.output, self.failure = event.result, event.failure
        self.activities.clear()
        self.timers.clear()
