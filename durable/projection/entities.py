"""The spans of an entity: one for each operation, in the trace of whoever asked for it.

Rule of this file: an entity has no span of its own. It lives for ever, and a trace of all its operations would have no
end: a call belongs to its caller's trace, a signal has a trace of its own that names who sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from durable.core import events as ev
from durable.projection.calls import moment, operation_name
from durable.projection.ids import parse_traceparent, span_id, trace_id
from durable.projection.places import Place, sender_link, trace_of_root
from durable.projection.spans import Attribute, SpanData, SpanLink

_NS = 1000


def batch_spans(place: Place, arrived: Sequence[Any], decided: Sequence[Any], now: int) -> Iterator[SpanData]:
    """The spans of the operations that one batch took in, at ``now`` (microseconds)."""
    failures = {
        (event.caller_id, event.caller_execution_id, event.task_id): event.failure
        for event in decided
        if isinstance(event, ev.EntityOperationFailed)
    }
    for event in arrived:
        if isinstance(event, ev.EntityOperationCalled):
            failure = failures.get((event.caller_id, event.caller_execution_id, event.task_id))
            yield _called(place, event, failure, now)
        elif isinstance(event, ev.EntityOperationSignaled):
            yield _signaled(place, event, failures.get((None, None, event.task_id)), now)


def _called(place: Place, event: ev.EntityOperationCalled, failure: Any, now: int) -> SpanData:
    caller, execution = event.caller_id or "", event.caller_execution_id or ""
    top_instance, top_execution, came_with = event.root or (caller, execution, "")
    trace, _ = trace_of_root(place.hub, place.mode, top_instance, top_execution, came_with or None)
    above = span_id(place.hub, caller, execution, f"task:{event.task_id}")
    return _operation(place, event, failure, now, "SERVER", trace, above, ())


def _signaled(place: Place, event: ev.EntityOperationSignaled, failure: Any, now: int) -> SpanData:
    trace = trace_id(place.hub, place.instance_id, event.message_id or "")
    return _operation(place, event, failure, now, "CONSUMER", trace, None, signal_links(place, event))


def signal_links(place: Place, event: ev.EntityOperationSignaled | ev.EventRaised) -> tuple[SpanLink, ...]:
    """Who sent a signal or an external event, where that is known: a client's span, or that of an orchestration."""
    what = {"durable.link": "signaled_by" if isinstance(event, ev.EntityOperationSignaled) else "raised_by"}
    client = parse_traceparent(event.traceparent)
    if client is not None:
        return (SpanLink(client[0], client[1], what),)
    sender = sender_link(place.hub, place.mode, event.message_id, event.root)
    return () if sender is None else (SpanLink(sender.trace_id, sender.span_id, what),)


def _operation(
    place: Place,
    event: ev.EntityOperationCalled | ev.EntityOperationSignaled,
    failure: Any,
    now: int,
    kind: Any,
    trace: int,
    above: int | None,
    links: tuple[SpanLink, ...],
) -> SpanData:
    attributes: dict[str, Attribute] = {
        "durabletask.type": "entity",
        "durabletask.task.operation": event.operation,
        "durabletask.task.instance_id": place.instance_id,
        "durabletask.task.execution_id": place.execution_id,
        "durable.hub": place.hub,
    }
    if isinstance(event, ev.EntityOperationSignaled) and event.scheduled_at is not None:
        attributes["durabletask.task.scheduled_time"] = moment(event.scheduled_at)
    if failure is not None:
        attributes["error.type"] = failure.error_type
    name = operation_name(place.instance_id, event.operation)
    key = f"operation:{event.message_id}"
    error = None if failure is None else failure.message
    start = min(event.timestamp, now)
    return SpanData(name, kind, trace, place.span_id(key), above, start * _NS, now * _NS, attributes, (), links, error)
