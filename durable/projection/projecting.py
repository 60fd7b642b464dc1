"""The projection: history events of one execution in, finished spans out.

Rule of this file: a span comes out with the event that closes its interval, once, and never changes. No time of it is
later than the turn, and children lie within their parents, whatever the clocks of the workers said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from durable.core import events as ev
from durable.core.ids import is_entity
from durable.core.state import RuntimeStatus
from durable.projection.attempts import attempts_of, given_up
from durable.projection.calls import ANSWERS, OPENING, Call, about_execution, sending, versioned
from durable.projection.entities import EntitySpans
from durable.projection.ids import TraceMode
from durable.projection.links import links_ahead, signal_links
from durable.projection.places import ROOT, Place, place_of_record, run_key, task_key
from durable.projection.spans import Attribute, Kind, SpanData, SpanEvent, SpanLink

RootSpan: TypeAlias = Literal["on_completion", "at_start"]
"""When the span of an execution comes out: whole at its end; or as a moment at its start, with its length in a child
``completed`` at the end, for stores that refuse what is older than a day."""

MAX_EVENTS = 128
"""Moments kept on an execution's own span; further ones are counted."""

_NS = 1000
_MOMENTS: dict[type[Any], str] = {
    ev.ExecutionSuspended: "suspended",
    ev.ExecutionResumed: "resumed",
    ev.ExecutionTerminated: "terminated",
    ev.ExecutionCancelRequested: "cancel_requested",
    ev.ExecutionRewound: "rewound",
    ev.CustomStatusSet: "custom_status_set",
    ev.VersionMarker: "patched",
}


def project(
    hub: str,
    history: Iterable[ev.HistoryEvent],
    instance_id: str | None = None,
    *,
    trace: TraceMode = "own",
    root_span: RootSpan = "on_completion",
) -> tuple[SpanData, ...]:
    """All spans that are finished in the history of one execution of task hub ``hub``, in the order of their ends.

    The history of a fork begins as its origin's does: with ``instance_id`` only the spans of that instance come.
    """
    return tuple(Projection(hub, instance_id, trace=trace, root_span=root_span).feed(history))


class Projection:
    """One execution, fed with its events in order; they may come in pieces of any size."""

    def __init__(
        self,
        hub: str,
        instance_id: str | None = None,
        *,
        trace: TraceMode = "own",
        root_span: RootSpan = "on_completion",
    ) -> None:
        self._hub = hub
        self._instance_id = instance_id
        self._mode: TraceMode = trace
        self._root_span = root_span
        self._arrived: list[Any] = []
        self._decided: list[Any] = []
        self._open: dict[int, Call] = {}
        self._task = self._former_task = 0  # the last task ids: so far, and of the runs before
        self._log: list[tuple[int, int, Call | None]] = []  # what opened and closed, by place, for a rewind
        self._length = self._position = self._seq = self._run = 0
        self._start = self._now = 0
        self._events: list[SpanEvent] = []
        self._left_out = 0
        self._turning = False
        self._entity = EntitySpans()
        self._ended: str | None = None
        self._origin: tuple[SpanLink, ...] = ()
        self.started: ev.ExecutionStarted | None = None
        self.place: Place | None = None

    @property
    def finished(self) -> bool:
        """Whether the execution has ended, and all its spans are out."""
        return self._ended is not None

    @property
    def failed(self) -> bool:
        """Whether it ended in another way than by completing or continuing."""
        return self._ended not in (None, RuntimeStatus.COMPLETED.value, "ContinuedAsNew")

    @property
    def duration(self) -> float:
        """Seconds from its start to its last turn."""
        return (self._now - self._start) / 1_000_000

    @property
    def own_span_id(self) -> int | None:
        """The id of the execution's own span, in the run under way; None before it has started."""
        return None if self.place is None else self.place.span_id(self._root_key)

    def open_calls(self) -> list[Call]:
        """What was asked for and is not answered, in the order of asking."""
        return list(self._open.values())

    def feed(self, events: Iterable[ev.HistoryEvent]) -> list[SpanData]:
        """Take in the next events, and return the spans that they finish."""
        spans: list[SpanData] = []
        for event in events:
            self._position += 1
            kind = type(event)
            if kind is ev.OrchestratorStarted:
                spans += self._begin_turn(event.timestamp)
            elif kind is ev.OrchestratorCompleted:
                spans += self._end_turn()
            elif self._turning:
                spans += self._decide(event)
            else:
                self._arrived.append(event)
        if self._instance_id is None:
            return spans
        return [span for span in spans if span.attributes["durabletask.task.instance_id"] == self._instance_id]

    # --- turns -----------------------------------------------------------------------------------

    def _begin_turn(self, now: int) -> Iterator[SpanData]:
        """Take in what arrived, now that the turn's time is known: nothing of it is later."""
        self._turning = True
        self._now = max(now, self._now)
        for place, event in enumerate(self._arrived, 1):
            kind = type(event)
            if kind is ev.ExecutionStarted:
                yield from self._begin(event)
            elif kind is ev.ExecutionRewound:
                self._rewind(event)
            elif kind is ev.ExecutionForked:
                yield from self._fork(event)
            if kind in _MOMENTS:
                self._note(event)
            elif kind is ev.EventRaised:
                yield self._received(event, place)
            elif kind is ev.TaskDeferred:
                yield from self._deferred(event)
            elif isinstance(event, ANSWERS) and event.task_id in self._open:
                yield from self._answered(event)
            self._length += 1
        self._length += 1

    def _end_turn(self) -> Iterator[SpanData]:
        if self.place is not None and is_entity(self.place.instance_id):
            yield from self._entity.batch(self.place, self._arrived, self._decided, self._now)
        self._arrived, self._decided = [], []
        self._turning, self._position = False, 0
        self._seq += 1
        self._length += 1

    def _decide(self, event: Any) -> Iterator[SpanData]:
        self._length += 1
        self._task = max(self._task, getattr(event, "task_id", 0))
        if self.place is None or self.started is None:
            return
        if is_entity(self.place.instance_id):
            self._decided.append(event)
            if isinstance(event, ev.ContinueAsNew):
                self._ended = "ContinuedAsNew"
            return
        opening = OPENING.get(type(event))
        call = None if opening is None else opening(event, self.started.name)
        if call is not None:
            self._open[call.task_id] = call
            self._log.append((self._length, call.task_id, call))
        elif type(event) in _MOMENTS:
            self._note(event)
        elif isinstance(event, ev.TaskCancelRequested):
            yield from self._give_up(event.task_id, "canceled")
        elif isinstance(event, ev.EventSent | ev.EntityOperationSignaled | ev.SubOrchestrationInstanceCreated):
            yield self._sent(event)
        elif isinstance(event, ev.ExecutionCompleted | ev.ContinueAsNew):
            yield from self._end(event)

    # --- the execution ---------------------------------------------------------------------------

    def _begin(self, event: ev.ExecutionStarted) -> Iterator[SpanData]:
        if self.started is not None:
            return  # delivered again by a rewind to the very beginning
        self.started = event
        self.place = place_of_record(self._hub, self._mode, event)
        self._start = min(event.timestamp, self._now)
        if not is_entity(event.instance_id):
            yield from self._announce()

    def _announce(self) -> Iterator[SpanData]:
        if self._root_span == "at_start":
            links = self._first_links()
            yield self._span(self._name, "SERVER", ROOT, self._start, self._start, self._own(), links=links)
        yield self._span(f"{self._name} started", "INTERNAL", "started", self._start, self._start, self._own(), ROOT)

    def _fork(self, event: ev.ExecutionForked) -> Iterator[SpanData]:
        """From here on it is an execution of its own; what came before are its origin's spans."""
        assert self.started is not None
        assert self.place is not None
        link: dict[str, Attribute] = {"durable.link": "forked_from"}
        self._origin = (SpanLink(self.place.trace_id, self.place.span_id(self._root_key), link),)
        here = replace(self.started, instance_id=event.instance_id, execution_id=event.execution_id)
        self.started = replace(here, version=event.version, parent=None)
        self.place = place_of_record(self._hub, self._mode, self.started)
        self._start, self._run = self._now, 0
        self._open = {key: replace(call, start=max(call.start, self._now)) for key, call in self._open.items()}
        self._log = [(self._length, key, call) for key, call in self._open.items()]
        self._former_task, self._events, self._left_out = 0, [], 0
        yield from self._announce()

    def _first_links(self) -> tuple[SpanLink, ...]:
        assert self.place is not None
        return (*self.place.first_links(), *self._origin)

    def _end(self, event: ev.ExecutionCompleted | ev.ContinueAsNew) -> Iterator[SpanData]:
        for task_id in list(self._open):
            yield from self._give_up(task_id, "abandoned")
        assert self.place is not None
        links = self._first_links() if self._run == 0 else (self._link_to_former_run(),)
        attributes = self._own() | {"durable.history.events": self._length + 1}
        error: str | None = None
        if isinstance(event, ev.ContinueAsNew):
            self._ended = "ContinuedAsNew"
            links = (*links, self.place.link("continued_as", event.execution_id))
        else:
            self._ended = event.status
            if event.failure is not None:
                attributes["error.type"] = event.failure.error_type
            if event.status != RuntimeStatus.COMPLETED:
                error = event.status if event.failure is None else event.failure.message
        attributes["durabletask.task.status"] = self._ended
        if self._left_out:
            attributes["durable.events_left_out"] = self._left_out
        events, start, now = tuple(self._events), self._start, self._now
        if self._root_span == "at_start":
            name, key = f"{self._name} completed", f"completed:{self._run}"
            yield self._span(
                name, "INTERNAL", key, start, now, attributes, ROOT, events=events, links=links, error=error
            )
        else:
            key = self._root_key
            yield self._span(self._name, "SERVER", key, start, now, attributes, events=events, links=links, error=error)

    def _rewind(self, event: ev.ExecutionRewound) -> None:
        """Go back to before the first failure: what was open there is open again, from now on, in a run of its own."""
        self._run, self._former_task = self._run + 1, self._task
        self._log = [entry for entry in self._log if entry[0] <= event.keep]
        self._open = {}
        for _, task_id, call in self._log:
            if call is None:
                self._open.pop(task_id, None)
            else:
                self._open[task_id] = replace(call, start=max(call.start, self._now))
        self._length = event.keep
        self._start = self._now
        self._events, self._left_out, self._ended = [], 0, None

    def _link_to_former_run(self) -> SpanLink:
        assert self.place is not None
        former = self.place.span_id(run_key(self._run - 1))
        return SpanLink(self.place.trace_id, former, {"durable.link": "rewound_from"})

    @property
    def _name(self) -> str:
        assert self.started is not None
        return f"orchestration:{versioned(self.started.name, self.started.version)}"

    @property
    def _root_key(self) -> str:
        return ROOT if self._root_span == "at_start" else run_key(self._run)

    def _note(self, event: Any) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._left_out += 1
            return
        given: dict[str, Attribute] = {}
        if isinstance(event, ev.VersionMarker):
            given["durable.patch_id"] = event.patch_id
        at = min(max(event.timestamp, self._start), self._now)
        self._events.append(SpanEvent(_MOMENTS[type(event)], at * _NS, given))

    # --- what it asked for -------------------------------------------------------------------------

    def _task_key(self, task_id: int) -> str:
        return task_key(task_id, self._run if task_id <= self._former_task else 0)

    def _answered(self, event: Any) -> Iterator[SpanData]:
        call = self._open[event.task_id]
        failure = getattr(event, "failure", None)
        end = min(max(event.timestamp, call.start), self._now)
        attributes: dict[str, Attribute] = {}
        if failure is not None:
            attributes["error.type"] = failure.error_type
        if isinstance(event, ev.TaskCompleted | ev.TaskFailed) and call.attempts:
            yield from self._attempts(call, event, end)
        yield self._close(call, end, attributes, None if failure is None else failure.message)

    def _deferred(self, event: ev.TaskDeferred) -> Iterator[SpanData]:
        call = self._open.get(event.task_id)
        if call is None:
            return
        end = min(max(event.timestamp, call.start), self._now)
        yield from self._attempts(call, event, end)
        self._open[event.task_id] = replace(call, attempts=False)
        self._log.append((self._length + 1, call.task_id, self._open[event.task_id]))

    def _attempts(self, call: Call, event: Any, end: int) -> Iterator[SpanData]:
        assert self.place is not None
        return attempts_of(self.place, self._task_key(call.task_id), call, event, end, self._common(call.task_id))

    def _give_up(self, task_id: int, outcome: str) -> Iterator[SpanData]:
        call = self._open.get(task_id)
        if call is None or self.place is None:
            return
        if call.attempts:
            yield given_up(self.place, self._task_key(task_id), call, self._now, self._common(task_id))
        yield self._close(call, self._now, {"durable.outcome": outcome}, None)

    def _close(self, call: Call, end: int, attributes: dict[str, Attribute], error: str | None) -> SpanData:
        key = self._task_key(call.task_id)
        given = call.attributes | attributes | {"durabletask.task.task_id": call.task_id}
        span = self._span(call.name, call.kind, key, call.start, end, given, self._root_key, error=error)
        del self._open[call.task_id]
        self._log.append((self._length + 1, call.task_id, None))
        return span

    # --- messages ----------------------------------------------------------------------------------

    def _received(self, event: ev.EventRaised, position: int) -> SpanData:
        assert self.place is not None
        at = min(max(event.timestamp, self._start), self._now)
        attributes: dict[str, Attribute] = {"durabletask.type": "event", "durabletask.event.name": event.name}
        name, key = f"orchestration_event:{event.name}", f"received:{self._seq}/{position}"
        links = signal_links(self.place, event)
        return self._span(name, "CONSUMER", key, at, at, attributes, above=self._root_key, links=links)

    def _sent(self, event: Any) -> SpanData:
        """A message to somebody who is not waited for."""
        assert self.place is not None
        name, attributes = sending(event)
        links = links_ahead(self.place, event, self._seq, self._position)
        key, now = f"sent:{self._seq}/{self._position}", self._now
        return self._span(name, "PRODUCER", key, now, now, attributes, above=self._root_key, links=links)

    # --- spans -------------------------------------------------------------------------------------

    def _common(self, task_id: int | None = None) -> dict[str, Attribute]:
        assert self.place is not None
        common: dict[str, Attribute] = {
            "durabletask.task.instance_id": self.place.instance_id,
            "durabletask.task.execution_id": self.place.execution_id,
            "durable.hub": self._hub,
        }
        if self.place.root_instance_id != self.place.instance_id:
            common["durable.root_instance_id"] = self.place.root_instance_id
        if task_id is not None:
            common["durabletask.task.task_id"] = task_id
        return common

    def _own(self) -> dict[str, Attribute]:
        return {} if self.started is None else about_execution(self.started)

    def _span(
        self,
        name: str,
        kind: Kind,
        key: str,
        start: int,
        end: int,
        attributes: dict[str, Attribute],
        above: str | None = None,
        *,
        events: tuple[SpanEvent, ...] = (),
        links: tuple[SpanLink, ...] = (),
        error: str | None = None,
    ) -> SpanData:
        assert self.place is not None
        parent = self.place.parent_id if above is None else self.place.span_id(above)
        given = self._common() | attributes
        trace = self.place.trace_id
        return SpanData(
            name, kind, trace, self.place.span_id(key), parent, start * _NS, end * _NS, given, events, links, error
        )
