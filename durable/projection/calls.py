"""What an execution has asked for, as spans: an open interval each, closed by its answer.

Rule of this file: one entry for each event that asks, in one table. What is asked by a kind that is not in it makes
no span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from durable.core import events as ev
from durable.core.ids import generation_of
from durable.projection.spans import Attribute, Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Call:
    """An open interval. ``start`` is in microseconds; ``attempts`` says that each attempt is a span below it."""

    task_id: int
    name: str
    kind: Kind
    start: int
    attributes: dict[str, Attribute]
    attempts_before: int = 0
    attempts: bool = False


def moment(micros: int) -> str:
    """A time as ISO 8601 text."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat()


def versioned(name: str, version: str | None) -> str:
    """A name with its version, as Durable Task writes it."""
    return name if version is None else f"{name}@({version})"


def operation_name(entity_id: str, operation: str) -> str:
    """The name of an entity operation's spans; the key of the entity is an attribute, not a part of it."""
    return f"entity:{entity_id.split('@')[1]}:{operation}"


def _activity(event: ev.TaskScheduled, orchestrator: str) -> Call:
    before = 0 if event.previous is None else event.previous.attempts
    attributes: dict[str, Attribute] = {"durabletask.type": "activity", "durabletask.task.name": event.name}
    return Call(event.task_id, f"activity:{event.name}", "CLIENT", event.timestamp, attributes, before, attempts=True)


def _timer(event: ev.TimerCreated, orchestrator: str) -> Call:
    attributes: dict[str, Attribute] = {"durabletask.type": "timer", "durabletask.fire_at": moment(event.fire_at)}
    return Call(event.task_id, f"orchestration:{orchestrator}:timer", "INTERNAL", event.timestamp, attributes)


def _child(event: ev.SubOrchestrationInstanceCreated, orchestrator: str) -> Call | None:
    if event.detached:
        return None
    attributes: dict[str, Attribute] = {
        "durabletask.type": "orchestration",
        "durabletask.task.name": event.name,
        "durable.child_instance_id": event.instance_id,
    }
    name = f"orchestration:{versioned(event.name, event.version)}"
    return Call(event.task_id, name, "CLIENT", event.timestamp, attributes)


def _entity(event: ev.EntityOperationCalled, orchestrator: str) -> Call:
    attributes: dict[str, Attribute] = {
        "durabletask.type": "entity",
        "durabletask.task.operation": event.operation,
        "durabletask.event.target_instance_id": event.entity_id,
    }
    name = operation_name(event.entity_id, event.operation)
    return Call(event.task_id, name, "CLIENT", event.timestamp, attributes)


def _locks(event: ev.EntityLockRequested, orchestrator: str) -> Call:
    attributes: dict[str, Attribute] = {"durabletask.type": "entity", "durable.lock_set": event.lock_set}
    return Call(event.task_id, "entity:lock", "CLIENT", event.timestamp, attributes)


OPENING: dict[type[Any], Callable[[Any, str], Call | None]] = {
    ev.TaskScheduled: _activity,
    ev.TimerCreated: _timer,
    ev.SubOrchestrationInstanceCreated: _child,
    ev.EntityOperationCalled: _entity,
    ev.EntityLockRequested: _locks,
}
"""Events that ask for something, and the interval that each opens."""

ANSWERS = (
    ev.TaskCompleted,
    ev.TaskFailed,
    ev.TimerFired,
    ev.SubOrchestrationInstanceCompleted,
    ev.SubOrchestrationInstanceFailed,
    ev.EntityOperationCompleted,
    ev.EntityOperationFailed,
    ev.EntityLockGranted,
)
"""Events that close one."""


def sending(event: Any) -> tuple[str, dict[str, Attribute]]:
    """Name and attributes of the span of a message to somebody who is not waited for."""
    target = event.entity_id if isinstance(event, ev.EntityOperationSignaled) else event.instance_id
    attributes: dict[str, Attribute] = {"durabletask.event.target_instance_id": target}
    if isinstance(event, ev.EventSent):
        given: dict[str, Attribute] = {"durabletask.type": "event", "durabletask.event.name": event.name}
        return f"orchestration_event:{event.name}", attributes | given
    if isinstance(event, ev.EntityOperationSignaled):
        given = {"durabletask.type": "entity", "durabletask.task.operation": event.operation}
        if event.scheduled_at is not None:
            given["durabletask.task.scheduled_time"] = moment(event.scheduled_at)
        return operation_name(event.entity_id, event.operation), attributes | given
    given = {"durabletask.type": "orchestration", "durabletask.task.name": event.name}
    return f"create_orchestration:{versioned(event.name, event.version)}", attributes | given


def about_execution(started: ev.ExecutionStarted) -> dict[str, Attribute]:
    """What the spans that are about an execution as a whole say."""
    own: dict[str, Attribute] = {"durabletask.type": "orchestration", "durabletask.task.name": started.name}
    if started.version is not None:
        own["durabletask.task.version"] = started.version
    if started.parent is not None:
        own["durable.parent_instance_id"] = started.parent.instance_id
    if generation := generation_of(started.execution_id):
        own["durable.generation"] = generation
    return own
