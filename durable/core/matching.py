"""Comparing what the code decides in replay with what is recorded, and saying how they differ."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any

from durable.core import events as ev
from durable.core.errors import FailureDetails

_IDENTITY: dict[type[Any], tuple[str, ...]] = {
    ev.TaskScheduled: ("task_id", "name"),  # and Orchestration.recalls_task
    ev.TimerCreated: ("task_id",),
    ev.TaskCancelRequested: ("task_id",),
    ev.SubOrchestrationInstanceCreated: ("task_id", "name"),
    ev.EventSent: ("task_id", "name"),
    ev.EntityOperationCalled: ("task_id", "entity_id", "operation"),
    ev.EntityOperationSignaled: ("task_id", "entity_id", "operation"),
    ev.EntityLockRequested: ("task_id", "lock_set"),
    ev.EntityUnlockSent: ("task_id", "entity_id"),
    ev.VersionMarker: ("patch_id",),
    ev.ContinueAsNew: (),
    ev.CustomStatusSet: (),
    ev.ExecutionCompleted: ("status",),
}
"""What must agree in replay; the rest (arguments, say) a deploy may change."""

_identities = {cls: attrgetter(*names) for cls, names in _IDENTITY.items() if names}


def same_decision(recorded: ev.Decision, decided: ev.Decision, *, strict: bool) -> bool:
    """Whether a decision is the recorded one: in kind and identity, ``strict``ly in all but the stack and the line."""
    if type(recorded) is not type(decided):
        return False
    if strict:
        return bool(_comparable(recorded) == _comparable(decided))
    identity = _identities.get(type(recorded))
    return identity is None or bool(identity(recorded) == identity(decided))


def _comparable(decision: Any) -> Any:
    if getattr(decision, "at", None) is not None:
        return replace(decision, at=None)
    match decision:
        case ev.ExecutionCompleted(failure=FailureDetails() as failure):
            return replace(decision, failure=FailureDetails(failure.error_type, failure.message))
        case _:
            return decision


def describe_decision(decision: ev.Decision | None) -> str:
    """A decision in a message: its row's type, what identifies it, and the source line."""
    if decision is None:
        return "nothing more in this turn"
    identity = {name: getattr(decision, name) for name in _IDENTITY[type(decision)]}
    task_id = identity.pop("task_id", None)
    text = " ".join([type(decision).__name__, *(repr(value) for value in identity.values())])
    if task_id is not None:
        text += f" (task {task_id})"
    line = getattr(decision, "at", None)
    return f"{text} at {line}" if line else text
