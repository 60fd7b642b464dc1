"""The spans of an entity: one for each operation, in the trace of whoever asked for it.

Rule of this file: an entity has no span of its own. It lives for ever, and a trace of all its operations would have no
end: a call belongs to its caller's trace, a signal has a trace of its own that names who sent it. The span of a signal
for a later time comes when it is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from durable.core import events as ev
from durable.core.codec import event_from_dict
from durable.projection.attempts import ended, recorded
from durable.projection.calls import moment, operation_name
from durable.projection.ids import span_id
from durable.projection.links import signal_links
from durable.projection.places import Operation, Place, operation_ids
from durable.projection.spans import Attribute, Kind, SpanData, SpanLink

_NS = 1000


class EntitySpans:
    """The spans of one execution of an entity, fed with its batches in order. Times are in microseconds."""

    def __init__(self) -> None:
        self._waiting: tuple[ev.EntityOperationSignaled, ...] = ()

    def batch(self, place: Place, arrived: Sequence[Any], decided: Sequence[Any], now: int) -> Iterator[SpanData]:
        """The spans of the operations that were done in the batch of ``now``."""
        failures = {
            (event.caller_id, event.caller_execution_id, event.task_id): event.failure
            for event in decided
            if isinstance(event, ev.EntityOperationFailed)
        }
        after = next((event for event in decided if isinstance(event, ev.EntityStateSet)), ev.EntityStateSet(now))
        traces = dict(after.traces or ())
        for event in self._done(arrived, after, now):
            signaled = isinstance(event, ev.EntityOperationSignaled)
            caller = (None, None) if signaled else (event.caller_id, event.caller_execution_id)
            failure = failures.get((*caller, event.task_id))
            yield _operation(place, event, failure, now, traces.get(event.message_id or ""))

    def _done(self, arrived: Sequence[Any], after: ev.EntityStateSet, now: int) -> Iterator[Any]:
        """What arrived and was done at once; then the signals that had waited for their time."""
        for event in arrived:
            if isinstance(event, ev.ExecutionStarted):
                self._waiting = _left_by_the_one_before(event)
            elif isinstance(event, ev.EntityOperationCalled) or (
                isinstance(event, ev.EntityOperationSignaled) and (event.scheduled_at or 0) <= now
            ):
                yield event
        wait = {signal.message_id for signal in after.scheduled}
        yield from (signal for signal in self._waiting if signal.message_id not in wait)
        self._waiting = after.scheduled


def _left_by_the_one_before(started: ev.ExecutionStarted) -> tuple[ev.EntityOperationSignaled, ...]:
    """The signals that waited for their time when the execution before went on in this one."""
    if not started.input.startswith("{"):
        return ()  # it is the first one; or its state is so large that it is stored apart
    before = event_from_dict(json.loads(started.input))
    return before.scheduled if isinstance(before, ev.EntityStateSet) else ()


def _operation(place: Place, event: Operation, failure: Any, now: int, trace: str | None) -> SpanData:
    attributes: dict[str, Attribute] = {
        "durabletask.type": "entity",
        "durabletask.task.operation": event.operation,
        "durabletask.task.instance_id": place.instance_id,
        "durabletask.task.execution_id": place.execution_id,
        "durable.hub": place.hub,
    }
    kind: Kind = "SERVER"
    above: int | None = None
    links: tuple[SpanLink, ...] = ()
    if isinstance(event, ev.EntityOperationCalled):
        key = f"task:{event.task_id}"
        above = span_id(place.hub, event.caller_id or "", event.caller_execution_id or "", key)
    else:
        kind, links = "CONSUMER", signal_links(place, event)
        if event.scheduled_at is not None:
            attributes["durabletask.task.scheduled_time"] = moment(event.scheduled_at)
    given, events, recorded_links, told = recorded(trace)
    error = told if failure is None else failure.message
    if failure is not None:
        attributes["error.type"] = failure.error_type
    trace_of_it, own = operation_ids(place.hub, place.mode, place.instance_id, event)
    start, end = min(event.timestamp, now) * _NS, max(now * _NS, ended(trace))
    name, links = operation_name(place.instance_id, event.operation), (*links, *recorded_links)
    return SpanData(name, kind, trace_of_it, own, above, start, end, given | attributes, events, links, error)
