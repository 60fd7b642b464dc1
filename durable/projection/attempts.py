"""Attempts of activities as spans: one for each delivery, also for those that were lost with their worker.

Rule of this file: history knows the attempt that ended. Of the ones before it, it knows only that they were; they
are drawn from the call to the next one's start, so that what the activity's code recorded below them has a parent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from durable.core import events as ev
from durable.projection.calls import Call
from durable.projection.places import Place
from durable.projection.spans import Attribute, SpanData, SpanEvent, SpanLink

Outcome: TypeAlias = ev.TaskCompleted | ev.TaskFailed | ev.TaskDeferred

_NS = 1000


def attempt_key(call_key: str, number: int) -> str:
    """The key of an attempt's span."""
    return f"{call_key}:attempt:{number}"


def attempts_of(
    place: Place, key: str, call: Call, outcome: Outcome, end: int, common: dict[str, Attribute]
) -> Iterator[SpanData]:
    """The spans of the attempts up to ``outcome``, which ended at ``end`` (microseconds)."""
    began = end if outcome.started_at is None else min(max(outcome.started_at, call.start), end)
    for number in range(1, outcome.attempt):
        lost: dict[str, Attribute] = {"error.type": "lease_lost"}
        yield _span(place, key, call, number, (call.start, began), common | lost, error="its worker was lost")
    attributes: dict[str, Attribute] = {"durable.queue_time_s": (began - call.start) / 1_000_000}
    if outcome.worker is not None:
        attributes["durable.worker"] = outcome.worker
    error: str | None = None
    if isinstance(outcome, ev.TaskFailed):
        attributes["error.type"] = outcome.failure.error_type
        error = outcome.failure.message
    elif isinstance(outcome, ev.TaskDeferred):
        attributes["durable.outcome"] = "deferred"
    given, events, links, told = recorded(outcome.trace)
    yield _span(
        place,
        key,
        call,
        outcome.attempt,
        (began, end),
        given | common | attributes,
        error=error if error is not None else told,
        events=events,
        links=links,
    )


def given_up(place: Place, key: str, call: Call, end: int, common: dict[str, Attribute]) -> SpanData:
    """The attempt that was running, or was to run, when the call was given up."""
    attributes: dict[str, Attribute] = {"durable.outcome": "canceled"}
    return _span(place, key, call, 1, (call.start, end), common | attributes)


def _span(
    place: Place,
    key: str,
    call: Call,
    number: int,
    interval: tuple[int, int],
    attributes: dict[str, Attribute],
    *,
    error: str | None = None,
    events: tuple[SpanEvent, ...] = (),
    links: tuple[SpanLink, ...] = (),
) -> SpanData:
    return SpanData(
        call.name,
        "SERVER",
        place.trace_id,
        place.span_id(attempt_key(key, number)),
        place.span_id(key),
        interval[0] * _NS,
        interval[1] * _NS,
        attributes | call.attributes | {"durable.attempt": number + call.attempts_before},
        events,
        links,
        error,
    )


Recorded: TypeAlias = tuple[dict[str, Attribute], tuple[SpanEvent, ...], tuple[SpanLink, ...], str | None]


def recorded(text: str | None) -> Recorded:
    """What user code put on its span: attributes, events, links, and the error that it told."""
    if text is None:
        return {}, (), (), None
    stored: dict[str, Any] = json.loads(text)
    events = tuple(SpanEvent(name, at, _plain(given)) for name, at, given in stored.get("events", ()))
    links = tuple(
        SpanLink(int(trace, 16), int(span, 16), _plain(given)) for trace, span, given in stored.get("links", ())
    )
    return _plain(stored.get("attributes", {})), events, links, stored.get("error")


def ended(text: str | None) -> int:
    """When the code that was recorded ended, in nanoseconds, where that was kept; else 0."""
    return 0 if text is None else int(json.loads(text).get("ended", 0))


def _plain(given: dict[str, Any]) -> dict[str, Attribute]:
    return {name: tuple(map(str, one)) if isinstance(one, list) else one for name, one in given.items()}
