"""Spans that are current while user code runs, though they are exported later, from history.

Rule of this file: such a span has its final id from the start, so that what user code traces nests below it. What user
code puts on it is kept, and goes into history with the outcome.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any

from opentelemetry import context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from durable.core.ids import BAGGAGE

_BAGGAGE = W3CBaggagePropagator()
_NOTHING = context.Context()
MAX_ENTRIES = 32
"""Attributes, events and links that are kept of each."""
_INT_64 = 2**63
MAX_TEXT = 1024
"""Characters kept of a text."""


class AttemptSpan(Span):
    """The span of an attempt while it runs: it takes what it is given, up to MAX_ENTRIES of a kind.

    ``make_context`` is asked for its ids when somebody wants to know: most attempts trace nothing.
    """

    _context: SpanContext | None = None
    _error: str | None = None
    _ended = False

    def __init__(self, make_context: Callable[[], SpanContext]) -> None:
        self._make_context = make_context
        self._attributes: dict[str, Any] = {}
        self._events: list[list[Any]] = []
        self._links: list[list[Any]] = []

    def recorded(self) -> str | None:
        """What was put on the span, as JSON text; None for nothing. It takes nothing any more."""
        self._ended = True
        if not (self._attributes or self._events or self._links or self._error):
            return None  # as most attempts
        parts = {"attributes": self._attributes, "events": self._events, "links": self._links, "error": self._error}
        return json.dumps({name: part for name, part in parts.items() if part})

    def get_span_context(self) -> SpanContext:
        if self._context is None:
            self._context = self._make_context()
        return self._context

    def is_recording(self) -> bool:
        return not self._ended and bool(self.get_span_context().trace_flags.sampled)

    def set_attribute(self, key: str, value: Any) -> None:
        if self.is_recording() and (key in self._attributes or len(self._attributes) < MAX_ENTRIES):
            self._attributes[_text(key)] = _plain(value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        if self.is_recording() and len(self._events) < MAX_ENTRIES:
            at = time_ns() if timestamp is None else max(0, int(timestamp))
            self._events.append([_text(name), at, _plain_all(attributes)])

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        if self.is_recording() and len(self._links) < MAX_ENTRIES:
            self._links.append([f"{context.trace_id:032x}", f"{context.span_id:016x}", _plain_all(attributes)])

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code, text = (status.status_code, status.description) if isinstance(status, Status) else (status, description)
        if self.is_recording():
            self._error = _text(text or "error") if code is StatusCode.ERROR else None

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        told = {
            "exception.type": f"{type(exception).__module__}.{type(exception).__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
        }
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def update_name(self, name: str) -> None:
        """Nothing: its name is that of the activity, by which it is found."""

    def end(self, end_time: int | None = None) -> None:
        """Nothing: it ends with the attempt."""


class OperationSpan(AttemptSpan):
    """The span of an entity's operation. History knows when its batch began; where somebody asked for the span, to make
    others below it, its end is kept with what was put on it.
    """

    def recorded(self) -> str | None:
        wanted = self._context is not None and self._context.trace_flags.sampled
        text = super().recorded()
        return json.dumps({**json.loads(text or "{}"), "ended": time_ns()}) if wanted else text


class OrchestratorSpan(NonRecordingSpan):
    """The span of an orchestration while its code runs; not sampled while it replays, so that its spans come once."""

    def __init__(self, make_context: Callable[[], SpanContext], is_replaying: Callable[[], bool]) -> None:
        self._make_context = make_context
        self._is_replaying = is_replaying
        self._live: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        live = self._live = self._live or self._make_context()
        if not self._is_replaying():
            return live
        return SpanContext(live.trace_id, live.span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))


def context_of(trace_id: int, span_id: int, *, sampled: bool) -> SpanContext:
    """The context of a span of this process."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)


def make_current(span: Span, tags: Mapping[str, str] | None) -> None:
    """Make ``span`` the current one of the running context, with the baggage of the start."""
    carried = tags.get(BAGGAGE) if tags else None
    base = _NOTHING if carried is None else _BAGGAGE.extract({"baggage": carried}, context=_NOTHING)
    context.attach(set_span_in_context(span, base))


def _plain(value: Any) -> Any:
    """A value as JSON keeps it; what is no attribute value becomes text."""
    if isinstance(value, bool | float) or (isinstance(value, int) and -_INT_64 <= value < _INT_64):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_text(one) for one in value[:MAX_ENTRIES]]
    return _text(value)


def _text(value: Any) -> str:
    """A value as text that UTF-8 can carry."""
    return str(value)[:MAX_TEXT].encode("utf-8", "replace").decode()


def _plain_all(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {_text(name): _plain(value) for name, value in list((attributes or {}).items())[:MAX_ENTRIES]}
