"""From the projection's spans to OpenTelemetry's, and out through an exporter.

Rule of this file: the same span gives the same bytes, whichever process exports it. So the resource holds nothing that
differs between processes: who looks at a trace sees twice what two workers exported with two resources.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from opentelemetry import context
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes as PlainAttributes

from durable.core.events import ExecutionForked, ExecutionStarted, HistoryEvent
from durable.projection import RootSpan, SpanData, TraceMode, project
from durable.projection.spans import Attribute, Attributes

_log = logging.getLogger("durable.otel")

SCOPE = InstrumentationScope("durable")
BATCH = 128
"""Spans of one export: encoding holds the interpreter, and with it the event loop."""

_STABLE = ("service.name", "service.namespace", "service.version", "deployment.environment.name")
_MAX_ATTRIBUTES, _MAX_TEXT = 128, 4096
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
# Both names are there in all releases so far, and are said to be private.
_SUPPRESS = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
_SUPPRESS_HTTP = getattr(context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_http_instrumentation")


def stable_resource(resource: Resource | None) -> Resource:
    """What of a resource is the same in all processes of a service."""
    given = (resource or Resource.create()).attributes
    return Resource({name: given[name] for name in _STABLE if name in given})


def exportable(span: SpanData, resource: Resource) -> ReadableSpan:
    """A span as OpenTelemetry's exporters take it."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, is_remote=False),
        parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id, is_remote=True),
        resource=resource,
        kind=SpanKind[span.kind],
        attributes=_attributes(span.attributes),
        events=tuple(Event(one.name, _attributes(one.attributes), timestamp=one.timestamp) for one in span.events),
        links=tuple(
            Link(_context(one.trace_id, one.span_id, is_remote=True), _attributes(one.attributes)) for one in span.links
        ),
        status=_UNSET if span.error is None else Status(StatusCode.ERROR, span.error[:_MAX_TEXT]),
        start_time=span.start,
        end_time=max(span.start, span.end),
        instrumentation_scope=SCOPE,
    )


def _context(trace_id: int, span_id: int, *, is_remote: bool) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=is_remote, trace_flags=_SAMPLED)


def _attributes(given: Attributes) -> PlainAttributes:
    """Sorted, so that equal attributes are equal bytes; within the limits that a bare exporter ignores."""
    plain = {name: _within_limit(given[name]) for name in sorted(given) if name}
    if len(plain) <= _MAX_ATTRIBUTES:
        return plain  # the SDK's own kind takes as long to make as the rest of the span
    return BoundedAttributes(_MAX_ATTRIBUTES, plain, immutable=True)


def _within_limit(value: Attribute) -> Attribute:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return tuple(text[:_MAX_TEXT] for text in value) if isinstance(value, tuple) else value


def suppressed() -> object:
    """Have instrumented libraries leave no spans in the running context: exporting is not traced. Returns a token."""
    return context.attach(context.set_value(_SUPPRESS, True, context.set_value(_SUPPRESS_HTTP, True)))


def export_acknowledged(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> bool:
    """Export and wait for the answer; False when it was not taken. Blocks: for a thread of its own."""
    token = suppressed()
    try:
        return exporter.export(spans) is SpanExportResult.SUCCESS
    except Exception as error:
        _log.warning("spans could not be exported and are kept: %r", error)
        return False
    finally:
        context.detach(token)  # type: ignore[arg-type]


def export_history(
    exporter: SpanExporter,
    hub: str,
    history: Iterable[HistoryEvent],
    *,
    resource: Resource | None = None,
    trace: TraceMode = "own",
    root_span: RootSpan = "on_completion",
) -> int:
    """Export the spans of one execution's history, as a worker would have; returns how many. Blocks.

    For instances of the past: the spans are the same, byte by byte, however often they are exported. Raises
    ConnectionError when the exporter does not take them.
    """
    chosen = stable_resource(resource)
    events = list(history)
    begun = [event for event in events if isinstance(event, ExecutionStarted | ExecutionForked)]
    instance_id = begun[-1].instance_id if begun else None
    made = project(hub, events, instance_id, trace=trace, root_span=root_span)
    spans = [exportable(span, chosen) for span in made]
    for start in range(0, len(spans), BATCH):
        if not export_acknowledged(exporter, spans[start : start + BATCH]):
            raise ConnectionError(f"the exporter took {start} of {len(spans)} spans")
    return len(spans)
