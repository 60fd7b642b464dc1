"""Spans as plain values. Times are integer nanoseconds since the epoch, UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, TypeAlias

from durable.core.values import value

Attribute: TypeAlias = str | int | float | bool | tuple[str, ...]
Attributes: TypeAlias = Mapping[str, Attribute]
Kind: TypeAlias = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]


@value
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    timestamp: int
    attributes: Attributes = field(default_factory=dict)


@value
class SpanLink:
    """Another span, of this trace or of another one; the attribute ``durable.link`` says what it is to this one."""

    trace_id: int
    span_id: int
    attributes: Attributes = field(default_factory=dict)


@value
class SpanData:
    """One span, final. ``parent_id`` None: it is the top of its trace. ``error`` None: its status is unset."""

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int | None
    start: int
    end: int
    attributes: Attributes
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    error: str | None = None


def span_to_dict(span: SpanData) -> dict[str, Any]:
    """A span as JSON types, ids in hexadecimal; attributes sorted, so that equal spans are equal text."""
    return {
        "name": span.name,
        "kind": span.kind,
        "trace_id": f"{span.trace_id:032x}",
        "span_id": f"{span.span_id:016x}",
        "parent_id": None if span.parent_id is None else f"{span.parent_id:016x}",
        "start": span.start,
        "end": span.end,
        "attributes": _sorted(span.attributes),
        "events": [
            {"name": event.name, "timestamp": event.timestamp, "attributes": _sorted(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "trace_id": f"{link.trace_id:032x}",
                "span_id": f"{link.span_id:016x}",
                "attributes": _sorted(link.attributes),
            }
            for link in span.links
        ],
        "error": span.error,
    }


def _sorted(attributes: Attributes) -> dict[str, Any]:
    return {name: list(one) if isinstance(one := attributes[name], tuple) else one for name in sorted(attributes)}
