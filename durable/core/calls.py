"""What a scheduling event calls, apart from when: by which a rewound execution finds its former results."""

from __future__ import annotations

from typing import TypeAlias

from durable.core import events as ev

Call: TypeAlias = tuple[str, str, str]
"""Kind, name (of the activity or orchestrator, or entity and operation), arguments."""


def call_of(event: ev.HistoryEvent) -> Call | None:
    """What a scheduling event calls; None for others."""
    match event:
        case ev.TaskScheduled():
            return "activity", event.name, event.input
        case ev.SubOrchestrationInstanceCreated() if not event.detached:
            return "orchestrator", event.name, event.input
        case ev.EntityOperationCalled() if event.message_id is None:
            return "entity", f"{event.entity_id} {event.operation}", event.input
        case _:
            return None
