"""Places: where in its trace an execution stands. Known from its first event, or from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias
from urllib.parse import quote

from durable.core.events import EntityOperationCalled, EntityOperationSignaled, ParentInstance
from durable.core.ids import TRACEPARENT, earlier_execution_id
from durable.core.values import value
from durable.projection.ids import TraceMode, parse_traceparent, span_id, trace_id
from durable.projection.spans import SpanLink

ROOT = "orchestration"
"""The key of an execution's own span."""

Operation: TypeAlias = EntityOperationCalled | EntityOperationSignaled


def run_key(run: int) -> str:
    """The key of the own span of an execution that was rewound that often."""
    return ROOT if run == 0 else f"{ROOT}:rewound:{run}"


def task_key(task_id: int, run: int) -> str:
    """The key of a call's span; ``run`` is not 0 where a run before had a task of that id: this one is another."""
    return f"task:{task_id}" if run == 0 else f"task:{task_id}:rewound:{run}"


class Identified(Protocol):
    """What says which execution it is about: an instance's record, or its first event."""

    @property
    def instance_id(self) -> str: ...

    @property
    def execution_id(self) -> str: ...

    @property
    def tags(self) -> Mapping[str, str] | None: ...

    @property
    def parent(self) -> ParentInstance | None: ...


@value
class Place:
    """An execution in its trace. ``parent_id`` is the span above its own; ``caller`` the traceparent it came with."""

    hub: str
    mode: TraceMode
    instance_id: str
    execution_id: str
    trace_id: int
    parent_id: int | None
    root_instance_id: str
    caller: str | None

    def span_id(self, key: str) -> int:
        """The id of the span ``key`` of this execution."""
        return span_id(self.hub, self.instance_id, self.execution_id, key)

    def link(self, what: str, execution_id: str) -> SpanLink:
        """A link to another execution of this instance."""
        trace = self.trace_id
        if self.parent_id is None and self.root_instance_id == self.instance_id:
            trace = trace_id(self.hub, self.instance_id, execution_id)
        target = span_id(self.hub, self.instance_id, execution_id, ROOT)
        return SpanLink(trace, target, {"durable.link": what})

    def first_links(self) -> tuple[SpanLink, ...]:
        """Where the execution comes from: the one before it, or the caller that started it."""
        before = earlier_execution_id(self.execution_id, 1)
        if before is not None:
            return (self.link("continued_from", before),)
        caller = parse_traceparent(self.caller)
        if caller is None or self.root_instance_id != self.instance_id:
            return ()
        return (SpanLink(caller[0], caller[1], {"durable.link": "started_by"}),)


def place_of_record(hub: str, mode: TraceMode, one: Identified) -> Place:
    """The place of an execution, by its record or its first event."""
    parent = one.parent
    if parent is None:
        caller = (one.tags or {}).get(TRACEPARENT)
        trace, above = trace_of_root(hub, mode, one.instance_id, one.execution_id, caller)
        return Place(hub, mode, one.instance_id, one.execution_id, trace, above, one.instance_id, caller)
    # Histories of before root_execution_id have it where it matters most: directly below the top.
    root_execution = parent.root_execution_id or parent.execution_id
    trace, _ = trace_of_root(hub, mode, parent.root_instance_id, root_execution, parent.traceparent)
    above = span_id(hub, parent.instance_id, parent.execution_id, f"task:{parent.task_id}")
    return Place(
        hub, mode, one.instance_id, one.execution_id, trace, above, parent.root_instance_id, parent.traceparent
    )


def trace_of_root(
    hub: str, mode: TraceMode, instance_id: str, execution_id: str, caller: str | None
) -> tuple[int, int | None]:
    """The trace of an execution at the top of its tree, and the caller's span where it is a part of the caller's."""
    joined = parse_traceparent(caller) if mode == "join" else None
    if joined is not None:
        return joined[0], joined[1]
    return trace_id(hub, instance_id, execution_id), None


def operation_ids(hub: str, mode: TraceMode, entity_id: str, event: Operation) -> tuple[int, int]:
    """Trace and span id of an operation, known when it is asked for, whichever execution of the entity does it."""
    own = span_id(hub, entity_id, "", f"operation:{event.message_id}")
    if isinstance(event, EntityOperationSignaled):
        return trace_id(hub, entity_id, event.message_id or ""), own
    top = event.root or (event.caller_id or "", event.caller_execution_id or "", "")
    return trace_of_root(hub, mode, top[0], top[1], top[2] or None)[0], own


def trace_url(template: str, hub: str, one: Identified, *, trace: TraceMode = "own") -> str:
    """Where a trace can be seen: ``template`` with ``{trace_id}``, ``{instance_id}`` and ``{hub}`` filled in.

    Raises ValueError for a template with any other name in braces.
    """
    place = place_of_record(hub, trace, one)
    try:
        return template.format(trace_id=f"{place.trace_id:032x}", instance_id=quote(place.instance_id), hub=quote(hub))
    except (KeyError, IndexError) as error:
        names = "{trace_id}, {instance_id} and {hub}"
        raise ValueError(f"the template of a trace's URL may hold {names}, not {error}: {template!r}") from error
