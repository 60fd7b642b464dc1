"""Metrics: recorded from committed turns. No attribute tells instances apart.

Rule of this file: what is counted happened. Turns that are read from the store to catch up were counted by whoever
committed them, and are not counted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from durable.backend import Checkpoint
from durable.core import events as ev
from durable.core.ids import generation_of, is_entity

_SECONDS = [0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3600]
_MICROS = 1_000_000
_KNOWN = 10_000


class Metrics:
    """The instruments, and what of the turns before is needed to record the next one."""

    def __init__(self, provider: MeterProvider | None, lag: Callable[[], float]) -> None:
        meter = get_meter("durable", meter_provider=provider)

        def histogram(name: str, unit: str, what: str) -> Any:
            advice = _SECONDS if unit == "s" else None
            return meter.create_histogram(name, unit, what, explicit_bucket_boundaries_advisory=advice)

        self._started = meter.create_counter("durable.instances.started", "{instance}", "Instances started")
        self._completed = meter.create_counter("durable.instances.completed", "{instance}", "Instances that ended")
        self._duration = histogram("durable.instance.duration", "s", "From the start of an instance to its end")
        self._attempts = meter.create_counter("durable.activity.attempts", "{attempt}", "Attempts that ended")
        self._activity = histogram("durable.activity.duration", "s", "How long an attempt ran")
        self._queued = histogram("durable.activity.queue_time", "s", "From the call to the attempt's start")
        self._timer = histogram("durable.timer.lag", "s", "From a timer's time to the turn that it woke")
        self._length = histogram("durable.history.length", "{event}", "Events of an execution, at its end")
        meter.create_observable_gauge(
            "durable.trace.lag", [_observing(lag)], "s", "Age of the oldest turn that waits for export"
        )
        self._executions: dict[tuple[str, str], _Execution] = {}

    def record(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Record turns that were committed here."""
        for checkpoint in checkpoints:
            if is_entity(checkpoint.instance_id):
                continue
            key = checkpoint.instance_id, checkpoint.execution_id
            execution = self._executions.get(key)
            if execution is None:
                execution = self._executions[key] = _Execution(known=checkpoint.seq == 0)
                if len(self._executions) > _KNOWN:
                    del self._executions[next(iter(self._executions))]
            for event in checkpoint.events:
                self._take(execution, event)
            execution.length += len(checkpoint.events)
            if execution.ended:
                del self._executions[key]

    def _take(self, execution: _Execution, event: ev.HistoryEvent) -> None:
        match event:
            case ev.ExecutionStarted():
                execution.name, execution.started_at = event.name, event.timestamp
                self._started.add(1, {"orchestration": event.name, "origin": _origin(event)})
            case ev.TaskScheduled():
                execution.scheduled[event.task_id] = event.name, event.timestamp
            case ev.TaskCompleted() | ev.TaskFailed():
                self._attempt_ended(execution, event)
            case ev.TimerFired():
                self._timer.record(max(0, event.timestamp - event.fire_at) / _MICROS)
            case ev.ExecutionCompleted():
                self._ended(execution, event.status, event.timestamp)
            case ev.ContinueAsNew():
                self._ended(execution, "ContinuedAsNew", event.timestamp)
            case _:
                pass  # nothing is counted by it

    def _attempt_ended(self, execution: _Execution, event: ev.TaskCompleted | ev.TaskFailed) -> None:
        name, scheduled_at = execution.scheduled.pop(event.task_id, ("", 0))
        if not name or event.started_at is None:
            return  # asked before this process had the instance, or completed from outside
        outcome = "ok"
        if isinstance(event, ev.TaskFailed):
            timed_out = event.failure.error_type.endswith("ActivityTimeoutError")
            outcome = "timeout" if timed_out else "error"
        self._attempts.add(1, {"activity": name, "outcome": outcome})
        if event.attempt > 1:
            self._attempts.add(event.attempt - 1, {"activity": name, "outcome": "lost"})
        self._activity.record((event.timestamp - event.started_at) / _MICROS, {"activity": name, "outcome": outcome})
        self._queued.record(max(0, event.started_at - scheduled_at) / _MICROS, {"activity": name})

    def _ended(self, execution: _Execution, status: str, timestamp: int) -> None:
        execution.ended = True
        if not execution.known:
            return  # its name and beginning are not known here
        attributes = {"orchestration": execution.name, "status": status}
        self._completed.add(1, attributes)
        self._duration.record((timestamp - execution.started_at) / _MICROS, attributes)
        self._length.record(execution.length, {"orchestration": execution.name})


class _Execution:
    """What the metrics remember of an execution under way."""

    __slots__ = ("ended", "known", "length", "name", "scheduled", "started_at")

    def __init__(self, *, known: bool) -> None:
        self.known = known
        self.name = ""
        self.started_at = 0
        self.length = 0
        self.ended = False
        self.scheduled: dict[int, tuple[str, int]] = {}


def _origin(event: ev.ExecutionStarted) -> str:
    if generation_of(event.execution_id):
        return "continue"
    return "client" if event.parent is None else "sub"


def _observing(value: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return (Observation(value()),)

    return observe
