"""One instance in memory: what is known of it, its code, its mailbox; and its record as a projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from durable.backend import CommitOutcome, InstanceRecord
from durable.core.events import (
    ArrivedEvent,
    CustomStatusSet,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    OrchestratorCompleted,
    OrchestratorStarted,
    TaskCompleted,
    TaskScheduled,
    TimerFired,
)
from durable.core.replay import Orchestration
from durable.core.state import InstanceState

MAX_ARRIVED = 500
"""Events one turn takes in; more wait for the next turn."""

_BASE_SIZE, _EVENT_SIZE = 4096, 100  # bytes, estimated

Created: TypeAlias = Callable[[CommitOutcome | None], None]
"""Hears of the commit that creates an instance; None: it was dropped before, and is not created."""

Turn: TypeAlias = Iterator[tuple[HistoryEvent, ...] | None]
"""A turn under way: pauses after each event, and gives the turn's events as its last item."""


class Phase(Enum):
    """Where a live instance stands. Its events gather in the mailbox unless it is IDLE."""

    IDLE = auto()
    TURNING = auto()
    COMMITTING = auto()


@dataclass(slots=True, eq=False)
class LiveInstance:
    """An instance in memory. ``recoveries`` counts its deliveries without a clean hand-over.

    ``next_seq`` and ``rev`` number its next and its last checkpoint. ``created`` is False until its
    record is written, together with its first checkpoint.
    """

    record: InstanceRecord
    orchestration: Orchestration
    state: InstanceState = field(default_factory=InstanceState)
    phase: Phase = Phase.IDLE
    mailbox: list[ArrivedEvent] = field(default_factory=list)
    next_seq: int = 0
    rev: int = 0
    recoveries: int = 0
    size: int = _BASE_SIZE
    created: bool = True
    on_created: Created | None = None
    turn: Turn | None = None
    taken: list[ArrivedEvent] = field(default_factory=list)  # by the turn that is not committed yet
    failures: int = 0

    @property
    def instance_id(self) -> str:
        return self.record.instance_id

    @property
    def under_way(self) -> bool:
        """Whether a turn is waiting, running or being committed."""
        return self.phase is not Phase.IDLE

    def take_arrived(self, now: int) -> list[ArrivedEvent]:
        """The events for the next turn: the news in the mailbox, then the timers that are due."""
        arrived: list[ArrivedEvent] = []
        answered: set[int] = set()
        taken, self.mailbox = self.mailbox[:MAX_ARRIVED], self.mailbox[MAX_ARRIVED:]
        for event in taken:
            task_id = 0 if isinstance(event, ExecutionStarted) else event.task_id
            if task_id not in answered and self.state.accepts(event):
                answered.add(task_id)
                arrived.append(event)
        if self.state.timers:
            arrived += [fired for fired in self.state.due_timers(now) if fired.task_id not in answered]
        self.taken = arrived
        return arrived

    def turn_time(self, arrived: Iterable[ArrivedEvent], now: int) -> int:
        """The time of a turn: never before the last one, nor before a timer it takes in."""
        time = max(now, self.state.last_timestamp)
        for event in arrived:
            if type(event) is TimerFired and event.fire_at > time:
                time = event.fire_at
        return time

    def absorb(self, events: Iterable[HistoryEvent]) -> int:
        """Take committed (or about to be committed) events into account; returns the size of their largest value."""
        apply, largest = self.state.apply, 0
        for event in events:
            apply(event)
            payload = _payload_size(event)
            if payload > largest:
                largest = payload
            self.size += _EVENT_SIZE + payload
        return largest


def start_event(record: InstanceRecord, now: int, runtime: str) -> ExecutionStarted:
    """The event that starts an instance: its record is the start message."""
    return ExecutionStarted(
        timestamp=max(now, record.created_at),
        instance_id=record.instance_id,
        execution_id=record.execution_id,
        name=record.name,
        input=record.input,
        version=record.version,
        tags=record.tags,
        runtime=runtime,
    )


def project(record: InstanceRecord, state: InstanceState, rev: int, recoveries: int) -> InstanceRecord:
    """The record of an instance whose history adds up to ``state`` after ``rev`` checkpoints."""
    ended = state.status.is_terminal
    return InstanceRecord(
        instance_id=record.instance_id,
        execution_id=record.execution_id,
        name=record.name,
        partition=record.partition,
        created_at=record.created_at,
        updated_at=state.last_timestamp,
        input=record.input,
        status=state.status,
        rev=rev,
        version=record.version,
        tags=record.tags,
        due_at=state.due_at,
        completed_at=state.last_timestamp if ended else None,
        output=state.output,
        custom_status=state.custom_status,
        failure=state.failure,
        problem=None,
        recoveries=recoveries,
    )


def _payload_size(event: HistoryEvent) -> int:
    match event:
        case OrchestratorStarted() | OrchestratorCompleted():
            return 0
        case TaskScheduled() | ExecutionStarted():
            return len(event.input)
        case TaskCompleted():
            return len(event.result)
        case ExecutionCompleted():
            return len(event.result or "")
        case CustomStatusSet():
            return len(event.status)
        case _:
            return 0
