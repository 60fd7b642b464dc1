"""Which field of an event holds a value of the user's: a JSON text of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from durable.core import events as ev

VALUE_FIELD: dict[type[ev.HistoryEvent], str] = {
    ev.ExecutionStarted: "input",
    ev.TaskScheduled: "input",
    ev.TaskCompleted: "result",
    ev.SubOrchestrationInstanceCreated: "input",
    ev.SubOrchestrationInstanceCompleted: "result",
    ev.EventRaised: "input",
    ev.EventSent: "input",
    ev.EntityOperationCalled: "input",
    ev.EntityOperationSignaled: "input",
    ev.EntityOperationCompleted: "result",
    ev.EntityStateSet: "state",
    ev.ContinueAsNew: "input",
    ev.ExecutionCompleted: "result",
    ev.CustomStatusSet: "status",
}
"""The field, by kind of event; the other kinds have none."""

_READ: dict[type[Any], Callable[[Any], str | None]] = {kind: attrgetter(name) for kind, name in VALUE_FIELD.items()}


def values_of(events: Iterable[ev.HistoryEvent]) -> list[str]:
    """The values of ``events`` that are there, in their order."""
    return list(filter(None, [read(event) for event in events if (read := _READ.get(type(event)))]))  # no JSON is empty


def value_sizes(events: Iterable[ev.HistoryEvent]) -> tuple[int, int]:
    """How many characters the values of ``events`` have together, and the largest of them."""
    total = largest = 0
    for event in events:  # as a loop: every turn comes by here
        read = _READ.get(type(event))
        if read is not None and (text := read(event)) is not None:
            size = len(text)
            total += size
            if size > largest:
                largest = size
    return total, largest
