"""What scripts get: instances, history events and workers as JSON.

Rule of this file: pure, and its field names are a promise. Statuses have the names of the HTTP API, history events
those of Durable Functions' table.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from durable.clock import to_datetime
from durable.core.codec import event_to_dict
from durable.core.errors import FailureDetails
from durable.core.events import HistoryEvent
from durable.handle import InstanceStatus
from durable.health import HubHealth, WorkerStatus
from durable.payloads import decode
from durable.status_fields import own_fields

HISTORY_COLUMNS = ("EventType", "Timestamp", "Name", "Input", "Result", "Status")

_TIMES = {"timestamp", "fire_at", "started_at", "scheduled_at", "start_at"}
_PAYLOADS = {"input", "result", "heartbeat", "terminate_with", "state"}


def time_text(moment: datetime, *, precise: bool = False) -> str:
    """A UTC time as the HTTP API writes it, to the second, or with microseconds."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds" if precise else "seconds")
    return text.replace("+00:00", "Z")


def status_shape(status: InstanceStatus) -> dict[str, Any]:
    """An instance: the fields of the HTTP API first, then those that are ours."""
    return {
        "name": status.name,
        "instanceId": status.instance_id,
        "runtimeStatus": status.runtime_status.value,
        "input": status.input,
        "customStatus": status.custom_status,
        "output": status.output,
        "createdTime": time_text(status.created_at),
        "lastUpdatedTime": time_text(status.last_updated_at),
        "failureDetails": None if status.failure is None else failure_shape(status.failure),
        **own_fields(status),
    }


def failure_shape(failure: FailureDetails) -> dict[str, Any]:
    """A failure with its causes."""
    return {
        "errorType": failure.error_type,
        "errorMessage": failure.message,
        "stackTrace": failure.stack_trace,
        "innerFailure": None if failure.cause is None else failure_shape(failure.cause),
    }


def history_shape(events: Iterable[HistoryEvent]) -> list[dict[str, Any]]:
    """History events: the columns of the table, null where they do not apply, then what else the event holds."""
    names: dict[int, str] = {}
    shapes = []
    for event in events:
        shape = _event_shape(event)
        task_id = shape.get("TaskId")
        if task_id is not None and shape["Name"] is not None:
            names[task_id] = shape["Name"]
        elif task_id is not None:
            shape["Name"] = names.get(task_id)  # what answers a call has its name
        shapes.append(shape)
    return shapes


def _event_shape(event: HistoryEvent) -> dict[str, Any]:
    stored = event_to_dict(event)
    shape: dict[str, Any] = dict.fromkeys(HISTORY_COLUMNS) | {"EventType": stored.pop("type")}
    stored.pop("failure", None)
    failure: FailureDetails | None = getattr(event, "failure", None)
    if failure is not None:
        shape["FailureDetails"] = failure_shape(failure)
    for name, value in stored.items():
        shape[_pascal(name)] = _plain(name, value)
    if shape["EventType"] == "CustomStatusSet":
        shape["Status"] = decode(stored["status"])
    return shape


def _plain(name: str, value: Any) -> Any:
    if name in _TIMES and isinstance(value, int):
        return time_text(to_datetime(value), precise=True)
    if name in _PAYLOADS and isinstance(value, str):
        return decode(value)
    return value


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def worker_shape(worker: WorkerStatus) -> dict[str, Any]:
    """A worker."""
    return {
        "workerId": worker.worker_id,
        "host": worker.host,
        "pid": worker.pid,
        "startedTime": time_text(worker.started_at),
        "partitions": list(worker.partitions),
    }


def health_shape(health: HubHealth, workers: int | None) -> dict[str, Any]:
    """The health of a hub, and how many workers it has; None where that is not known."""
    return {
        "status": health.status,
        "hub": health.hub,
        "connected": health.connected,
        "workers": workers,
        "problem": health.problem,
    }
