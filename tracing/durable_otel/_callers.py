"""The client's side: the span of a call, live in the caller's process, and its context on the way to the instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import Span, SpanContext, SpanKind, TraceFlags, Tracer, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from durable.backend import InstanceRecord
from durable.core.events import EntityOperationSignaled, EventRaised
from durable.core.ids import BAGGAGE, TRACEPARENT, TRACESTATE
from durable.projection import TraceMode, place_of_record
from durable.projection.links import link_to_operation
from durable.projection.places import ROOT

_W3C = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def carrier_tags(names: frozenset[str]) -> dict[str, str]:
    """The current trace context, and the baggage of these names, as tags; empty outside any trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    if names:
        allowed = context.Context()
        for name, value in baggage.get_all().items():
            if name in names:
                allowed = baggage.set_baggage(name, value, allowed)
        _BAGGAGE.inject(carrier, context=allowed)
    tags = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE, "baggage": BAGGAGE}
    return {tags[name]: text for name, text in carrier.items() if name in tags and text}


def starting(
    tracer: Tracer, hub: str, mode: TraceMode, names: frozenset[str], record: InstanceRecord
) -> AbstractContextManager[InstanceRecord]:
    """The block in which an instance is started; the record carries the context, unless it has one already."""
    span = tracer.start_span(f"create_orchestration:{record.name}", kind=SpanKind.PRODUCER)
    if not names and not span.get_span_context().is_valid:
        return nullcontext(record)  # the process traces nothing itself, and is in no trace
    return _traced_start(span, hub, mode, names, record)


@contextmanager
def _traced_start(
    span: Span, hub: str, mode: TraceMode, names: frozenset[str], record: InstanceRecord
) -> Iterator[InstanceRecord]:
    given: Mapping[str, str] = record.tags or {}
    with use_span(span, end_on_exit=True):
        if span.is_recording():
            _describe(span, hub, mode, record)
        carried = {} if TRACEPARENT in given else carrier_tags(names)
        yield replace(record, tags={**given, **carried}) if carried else record


def _describe(span: Span, hub: str, mode: TraceMode, record: InstanceRecord) -> None:
    span.set_attributes(
        {
            "durabletask.type": "orchestration",
            "durabletask.task.name": record.name,
            "durabletask.task.instance_id": record.instance_id,
            "durabletask.task.execution_id": record.execution_id,
            "durable.hub": hub,
        }
    )
    if mode == "own":
        # The instance's own span does not exist yet; its id does.
        place = place_of_record(hub, mode, record)
        span.add_link(_context(place.trace_id, place.span_id(ROOT)), {"durable.link": "starts"})


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


@contextmanager
def sending(
    tracer: Tracer,
    hub: str,
    mode: TraceMode,
    instance_id: str,
    event: EventRaised | EntityOperationSignaled,
    receiver: InstanceRecord | None,
) -> Iterator[EventRaised | EntityOperationSignaled]:
    """The block in which an external event is raised, or an entity is signaled; the event carries the context.

    A signal links to the operation that it brings about, an event to the execution that runs when it is raised.
    """
    attributes = {"durabletask.event.target_instance_id": instance_id, "durable.hub": hub}
    if isinstance(event, EventRaised):
        name = f"orchestration_event:{event.name}"
        attributes |= {"durabletask.type": "event", "durabletask.event.name": event.name}
    else:
        name = f"entity:{instance_id.split('@')[1]}:{event.operation}"
        attributes |= {"durabletask.type": "entity", "durabletask.task.operation": event.operation}
    with tracer.start_as_current_span(name, kind=SpanKind.PRODUCER, attributes=attributes) as span:
        if isinstance(event, EntityOperationSignaled):
            ahead = link_to_operation(hub, mode, instance_id, event)
            span.add_link(_context(ahead.trace_id, ahead.span_id), ahead.attributes)
        elif receiver is not None:
            place = place_of_record(hub, mode, receiver)
            span.add_link(_context(place.trace_id, place.span_id(ROOT)), {"durable.link": "raises_event"})
        traceparent = carrier_tags(frozenset()).get(TRACEPARENT)
        yield event if traceparent is None else replace(event, traceparent=traceparent)
