"""Spans and timeline rows as a projection of committed history: pure, the same for everyone.

Rule of this package: no clock, no randomness, no input or output. A span is made once, when what closes it is in
the history, and each span id stands for one content only. Payloads never become a part of a span.
"""

from __future__ import annotations

from durable.projection.ids import TraceMode, span_id, trace_id
from durable.projection.places import Place, place_of_record, trace_url
from durable.projection.projecting import Projection, RootSpan, project
from durable.projection.spans import SpanData, SpanEvent, SpanLink, span_to_dict
from durable.projection.timeline import TimelineRow, timeline

__all__ = [
    "Place",
    "Projection",
    "RootSpan",
    "SpanData",
    "SpanEvent",
    "SpanLink",
    "TimelineRow",
    "TraceMode",
    "place_of_record",
    "project",
    "span_id",
    "span_to_dict",
    "timeline",
    "trace_id",
    "trace_url",
]
