"""Timeline rows: the same spans for people who look at one instance, with what is still open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from durable.core.events import HistoryEvent
from durable.core.values import value
from durable.projection.projecting import Projection
from durable.projection.spans import SpanData

RowState: TypeAlias = Literal["done", "failed", "canceled", "open"]


@value
class TimelineRow:
    """One bar. ``start`` and ``end`` are microseconds; ``end`` None: it is open. ``depth`` is how far to indent it."""

    label: str
    kind: str
    start: int
    end: int | None
    state: RowState
    depth: int
    task_id: int | None = None
    attempt: int | None = None
    error: str | None = None


def timeline(history: Iterable[HistoryEvent]) -> list[TimelineRow]:
    """The rows of an execution's history, by their start; parents come before their children."""
    projection = Projection("timeline")
    spans = projection.feed(history)
    parents = {span.span_id: span.parent_id for span in spans}
    if projection.own_span_id is not None:
        parents.setdefault(projection.own_span_id, None)
    ordered = sorted(spans, key=lambda span: (span.start, _depth(span.span_id, parents), -span.end))
    rows = [_row(span, _depth(span.span_id, parents)) for span in ordered]
    started = projection.started
    if started is not None and not projection.finished:
        own = TimelineRow(f"orchestration:{started.name}", "SERVER", started.timestamp, None, "open", 0)
        rows = [own, *rows]
        for call in projection.open_calls():
            rows.append(TimelineRow(call.name, call.kind, call.start, None, "open", 1, call.task_id))
    return rows


def _depth(span_id: int, parents: dict[int, int | None]) -> int:
    """How many spans of this history lie above it."""
    depth = 0
    above = parents[span_id]
    while above is not None and above in parents:
        depth, above = depth + 1, parents[above]
    return depth


def _row(span: SpanData, depth: int) -> TimelineRow:
    given = span.attributes
    state: RowState = "done"
    if span.error is not None:
        state = "failed"
    elif given.get("durable.outcome") in ("canceled", "abandoned"):
        state = "canceled"
    task_id, attempt = given.get("durabletask.task.task_id"), given.get("durable.attempt")
    return TimelineRow(
        span.name,
        span.kind,
        span.start // 1000,
        span.end // 1000,
        state,
        depth,
        task_id if isinstance(task_id, int) else None,
        attempt if isinstance(attempt, int) else None,
        span.error,
    )
