"""Histories as JSON: the projection that clients of Durable Functions know, and all events as they are.

Rule of this file: pure functions of events. No stack traces, and no source lines: they name the server's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from durable.clock import to_datetime
from durable.core import events as ev
from durable.core.errors import FailureDetails
from durable.core.events import HistoryEvent
from durable.http.statuses import body_of, failure_json
from durable.payloads import decode

_LEFT_OUT = (ev.OrchestratorStarted, ev.OrchestratorCompleted)
_SCHEDULED = (ev.TaskScheduled, ev.SubOrchestrationInstanceCreated, ev.TimerCreated, ev.EntityOperationCalled)
_ENDED = (
    ev.TaskCompleted,
    ev.TaskFailed,
    ev.SubOrchestrationInstanceCompleted,
    ev.SubOrchestrationInstanceFailed,
    ev.TimerFired,
    ev.EntityOperationCompleted,
    ev.EntityOperationFailed,
)
_TIMES = frozenset({"timestamp", "fire_at", "scheduled_at", "started_at"})
_PAYLOADS = frozenset({"input", "result", "state", "heartbeat", "terminate_with"})
_PRIVATE = frozenset({"at", "message_id"})


def projected(history: Iterable[HistoryEvent], *, show_output: bool) -> list[dict[str, Any]]:
    """The ``historyEvents`` of a status: what was scheduled and how it ended in one row, turns left out.

    Inputs and results are there with ``show_output`` only.
    """
    rows: list[dict[str, Any]] = []
    waiting: dict[int, dict[str, Any]] = {}
    for event in history:
        if isinstance(event, _LEFT_OUT):
            continue
        row = _row(event, show_output)
        if isinstance(event, _SCHEDULED):
            waiting[event.task_id] = row
        elif isinstance(event, _ENDED) and (scheduled := waiting.pop(event.task_id, None)) is not None:
            row = {**_scheduling(scheduled), **row}
            rows.remove(scheduled)
        rows.append(row)
    return rows


def _scheduling(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("FunctionName", "Input", "FireAt", "InstanceId") if name in row}
    return {**kept, "ScheduledTime": row["Timestamp"]}


def _row(event: HistoryEvent, show_output: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"EventType": event.type, "Timestamp": _iso(event.timestamp)}
    match event:
        case ev.ExecutionStarted() | ev.TaskScheduled() | ev.SubOrchestrationInstanceCreated():
            row["FunctionName"] = event.name
        case ev.EntityOperationCalled() | ev.EntityOperationSignaled():
            row |= {"InstanceId": event.entity_id, "FunctionName": event.operation}
        case ev.EventRaised() | ev.EventSent():
            row["Name"] = event.name
        case ev.TimerCreated() | ev.TimerFired():
            row["FireAt"] = _iso(event.fire_at)
        case ev.ExecutionCompleted():
            row["OrchestrationStatus"] = event.status
        case ev.ExecutionSuspended() | ev.ExecutionResumed() | ev.ExecutionCancelRequested() | ev.ExecutionRewound():
            row["Reason"] = event.reason
        case _:
            pass
    failure = getattr(event, "failure", None)
    if failure is not None:
        row["Reason"] = failure.message
    if show_output:
        row |= _values(event)
    return row


def _values(event: HistoryEvent) -> dict[str, Any]:
    shown = {"Input": getattr(event, "input", None), "Result": getattr(event, "result", None)}
    values = {name: decode(text) for name, text in shown.items() if text is not None}
    if "Input" in values and not isinstance(event, ev.EventRaised | ev.EventSent | ev.ExecutionTerminated):
        values["Input"] = body_of(values["Input"])
    return values


def all_events(history: Iterable[HistoryEvent]) -> list[dict[str, Any]]:
    """Every event with every field that it has, names in camel case, times as text, payloads as JSON values."""
    return [{"index": index, **_whole(event)} for index, event in enumerate(history)]


def _whole(event: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for one in fields(event):
        value = getattr(event, one.name)
        if value is not None and one.name not in _PRIVATE:
            name = "eventType" if one.name == "type" else _camel(one.name)
            row[name] = _plain(event, one.name, value)
    return row


def _plain(event: Any, name: str, value: Any) -> Any:
    if name in _TIMES:
        return _iso(value)
    if name in _PAYLOADS or (name == "status" and isinstance(event, ev.CustomStatusSet)):
        return decode(value)
    match value:
        case FailureDetails():
            return failure_json(value)
        case ev.ParentInstance() | ev.PreviousAttempt():
            return _whole(value)
        case tuple():
            return [_plain(None, "", one) for one in value]
        case ev.EventRaised() | ev.ExecutionCancelRequested() | ev.EntityOperationSignaled():
            return _whole(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _iso(timestamp: int) -> str:
    return to_datetime(timestamp).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
