"""Metrics of instances and activities, recorded from committed turns.

Rule of this file: what is counted happened. Turns that are read from the store to catch up were counted by whoever
committed them, and are not counted again. Each value recorded takes some 20 µs of the event loop, so counters are added
to once for a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.metrics import Counter

from durable.backend import Commit
from durable.core import events as ev
from durable.core.ids import generation_of, is_entity
from durable_otel._meters import Meters

_MICROS = 1_000_000
_KNOWN = 10_000


@dataclass(slots=True)
class _Execution:
    """What is remembered of an execution under way: its start, and the activities that it waits for."""

    started_at: int | None = None
    scheduled: dict[int, ev.TaskScheduled] = field(default_factory=dict)


class HistoryMetrics:
    """The instruments, and what of the turns before is needed to record the next one."""

    def __init__(self, meters: Meters) -> None:
        self._started = meters.counter("durable.instances.started", "instance", "Instances started")
        self._completed = meters.counter("durable.instances.completed", "instance", "Instances that ended")
        self._duration = meters.seconds("durable.instance.duration", "From the start of an instance to its end")
        self._attempts = meters.counter("durable.activity.attempts", "attempt", "Attempts that ended")
        self._activity = meters.seconds("durable.activity.duration", "How long an attempt ran")
        self._queued = meters.seconds("durable.activity.queue_time", "From the call to the attempt's start")
        self._timer = meters.seconds("durable.timer.lag", "From a timer's time to the turn that it woke")
        self._tally: dict[tuple[Counter, tuple[tuple[str, str], ...]], int] = {}
        self._executions: dict[tuple[str, str], _Execution] = {}

    def loaded(self, started: ev.ExecutionStarted, outstanding: Collection[ev.TaskScheduled]) -> None:
        """An execution goes on here that began elsewhere, or was out of memory."""
        scheduled = {one.task_id: one for one in outstanding}
        self._remember((started.instance_id, started.execution_id), _Execution(started.timestamp, scheduled))

    def record(self, commits: Iterable[Commit]) -> None:
        """Record turns that were committed here."""
        for commit in commits:
            checkpoint = commit.checkpoint
            if is_entity(checkpoint.instance_id):
                continue
            key = checkpoint.instance_id, checkpoint.execution_id
            execution = self._executions.get(key)
            if execution is None:
                execution = _Execution()
                self._remember(key, execution)
            for event in checkpoint.events:
                self._take(execution, event, commit.record.name)
                if isinstance(event, ev.ExecutionCompleted | ev.ContinueAsNew):
                    del self._executions[key]
        for (counter, attributes), number in self._tally.items():
            counter.add(number, dict(attributes))
        self._tally.clear()

    def _count(self, counter: Counter, number: int = 1, **attributes: str) -> None:
        key = counter, tuple(attributes.items())
        self._tally[key] = self._tally.get(key, 0) + number

    def _remember(self, key: tuple[str, str], execution: _Execution) -> None:
        self._executions[key] = execution
        if len(self._executions) > _KNOWN:
            del self._executions[next(iter(self._executions))]

    def _take(self, execution: _Execution, event: ev.HistoryEvent, name: str) -> None:
        match event:
            case ev.ExecutionStarted():
                execution.started_at = event.timestamp
                self._count(self._started, orchestration=name, origin=_origin(event))
            case ev.TaskScheduled():
                execution.scheduled[event.task_id] = event
            case ev.TaskCompleted() | ev.TaskFailed():
                self._attempt_ended(execution, event)
            case ev.TimerFired():
                self._timer.record(max(0, event.timestamp - event.fire_at) / _MICROS)
            case ev.ExecutionCompleted():
                self._ended(execution, name, event.status, event.timestamp)
            case ev.ContinueAsNew():
                self._ended(execution, name, "ContinuedAsNew", event.timestamp)
            case _:
                pass  # nothing is counted by it

    def _attempt_ended(self, execution: _Execution, event: ev.TaskCompleted | ev.TaskFailed) -> None:
        scheduled = execution.scheduled.pop(event.task_id, None)
        if scheduled is None or event.started_at is None:
            return  # completed from outside
        name = scheduled.name
        outcome = "ok"
        if isinstance(event, ev.TaskFailed):
            timed_out = event.failure.error_type.endswith("ActivityTimeoutError")
            outcome = "timeout" if timed_out else "error"
        self._count(self._attempts, activity=name, outcome=outcome)
        if event.attempt > 1:
            self._count(self._attempts, event.attempt - 1, activity=name, outcome="lost")
        took = max(0, event.timestamp - event.started_at) / _MICROS
        self._activity.record(took, {"activity": name, "outcome": outcome})
        waited = max(0, event.started_at - scheduled.timestamp) / _MICROS
        where: dict[str, Any] = {} if scheduled.queue is None else {"queue": scheduled.queue.name}
        self._queued.record(waited, {"activity": name, **where})

    def _ended(self, execution: _Execution, name: str, status: str, timestamp: int) -> None:
        self._count(self._completed, orchestration=name, status=status)
        if execution.started_at is not None:
            took = (timestamp - execution.started_at) / _MICROS
            self._duration.record(took, {"orchestration": name, "status": status})


def _origin(event: ev.ExecutionStarted) -> str:
    if generation_of(event.execution_id):
        return "continue"
    return "client" if event.parent is None else "sub"
