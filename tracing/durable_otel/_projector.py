"""From committed turns to spans: the open intervals of the instances under way, and how far each is exported.

Rule of this file: used by one thread. Turns of an execution come in their order, or its history is read from the start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from durable.backend import Checkpoint
from durable.core.events import ContinueAsNew, ExecutionCompleted
from durable.projection import Place, Projection, SpanData
from durable.projection.ids import parse_traceparent
from durable_otel._pending import Key, Turns
from durable_otel._settings import TraceSettings

_LOW_64 = 2**64 - 1
_KEPT_CURSORS = 50_000


@dataclass(slots=True)
class _Traced:
    projection: Projection
    next_seq: int = 0
    sampled: bool | None = None
    forced: bool = False
    held: list[SpanData] = field(default_factory=list)  # with cadence "completion"


def is_in_share(trace_id: int, share: float) -> bool:
    """Whether a trace is among that share of all."""
    return trace_id & _LOW_64 < share * 2**64


def is_sampled(place: Place, share: float) -> bool:
    """Whether the instances of a trace are exported: as their caller's are, else by the trace id."""
    caller = parse_traceparent(place.caller)
    if caller is not None:
        return bool(caller[2] & 1)
    return is_in_share(place.trace_id, share)


def _ends(checkpoint: Checkpoint) -> bool:
    return any(isinstance(event, ExecutionCompleted | ContinueAsNew) for event in checkpoint.events)


Reached: TypeAlias = tuple[Key, int]
"""An execution, and how many of its turns have all their spans out."""


class Projector:
    """Projects turns as they come. ``leave_behind`` is told the executions whose history has to be read."""

    def __init__(self, hub: str, settings: TraceSettings, leave_behind: Callable[..., None]) -> None:
        self._hub = hub
        self._settings = settings
        self._leave_behind = leave_behind
        self._traced: OrderedDict[Key, _Traced] = OrderedDict()
        self._cursors: OrderedDict[Key, int] = OrderedDict()  # the turns that are exported

    def project(self, turns: Turns) -> tuple[list[SpanData], Reached | None]:
        """The spans to export after ``turns``, by their ends; and, for :meth:`exported`, what they cover."""
        spans: list[SpanData] = []
        if turns.whole:
            self._traced.pop(turns.key, None)
        reached: Reached | None = None
        for checkpoint in turns.checkpoints:
            if not self._take_in(checkpoint, turns, spans):
                break
            if self._settings.cadence == "commit" or _ends(checkpoint):
                reached = turns.key, checkpoint.seq + 1
        traced = self._traced.get(turns.key)
        if traced is not None and traced.projection.finished:
            del self._traced[turns.key]  # not before: a history that is read goes on where the instance was rewound
        return spans, reached

    def exported(self, reached: Reached) -> None:
        """The spans of these turns were taken; when their history is read again, they are left out."""
        key, count = reached
        self._cursors[key] = max(self._cursors.pop(key, 0), count)
        if len(self._cursors) > _KEPT_CURSORS:
            self._cursors.popitem(last=False)

    def _take_in(self, checkpoint: Checkpoint, turns: Turns, spans: list[SpanData]) -> bool:
        key = turns.key
        traced = self._traced.get(key)
        if traced is None:
            if checkpoint.seq:
                self._leave_behind(key)
                return False
            traced = self._begin(key, turns.forced)
        if checkpoint.seq < traced.next_seq:
            return True  # its history was read meanwhile, with this turn
        if checkpoint.seq > traced.next_seq:
            del self._traced[key]
            self._leave_behind(key)
            return False
        made = traced.projection.feed(checkpoint.events)
        traced.next_seq += 1
        self._traced.move_to_end(key)
        if traced.sampled is None and traced.projection.place is not None:
            traced.sampled = traced.forced or is_sampled(traced.projection.place, self._settings.sample)
        self._hand_out(key, checkpoint, traced, made, spans)
        return True

    def _begin(self, key: Key, forced: bool) -> _Traced:
        settings = self._settings
        projection = Projection(self._hub, key[0], trace=settings.trace, root_span=settings.root_span)
        traced = self._traced[key] = _Traced(projection, forced=forced)
        if len(self._traced) > settings.max_instances:
            self._traced.popitem(last=False)
        return traced

    def _hand_out(
        self, key: Key, checkpoint: Checkpoint, traced: _Traced, made: list[SpanData], spans: list[SpanData]
    ) -> None:
        ended = _ends(checkpoint)
        if key[0].startswith("@"):  # an entity: each operation is in the trace of who asked for it
            if traced.forced or checkpoint.seq >= self._cursors.get(key, 0):
                spans += [span for span in made if is_in_share(span.trace_id, self._settings.sample)]
        elif traced.sampled:
            if traced.forced or checkpoint.seq >= self._cursors.get(key, 0):
                (spans if self._settings.cadence == "commit" else traced.held).extend(made)
            if ended:
                spans += traced.held
                traced.held = []
        elif ended and self._is_worth_it(traced.projection):
            self._leave_behind(key, forced=True)

    def _is_worth_it(self, projection: Projection) -> bool:
        slow = self._settings.export_slower_than
        return (self._settings.export_failed and projection.failed) or (slow is not None and projection.duration > slow)
