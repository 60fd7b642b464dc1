"""The parts of the exporter by themselves: what waits is bounded, and what is exported is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from durable.backend import Checkpoint
from durable.core import events as ev
from durable.projection import SpanData, project
from durable_otel import TraceSettings
from durable_otel._pending import Key, Pending, Turns
from durable_otel._projector import Projector
from tests.tracing.histories import all_histories, everything, instance_of, rewound, started, turn

KEY = ("order-1", "e1")


def checkpoints(history: list[ev.HistoryEvent], key: Key = KEY) -> list[Checkpoint]:
    """A history as it was committed."""
    found: list[Checkpoint] = []
    events: list[ev.HistoryEvent] = []
    for event in history:
        events.append(event)
        if isinstance(event, ev.OrchestratorCompleted):
            found.append(Checkpoint(*key, len(found), len(found) + 1, "t", tuple(events)))
            events = []
    return found


def large(size: int) -> Checkpoint:
    return Checkpoint(*KEY, 0, 1, "t", (ev.TaskCompleted(1, 1, "x" * size),))


@pytest.mark.parametrize(("limit", "max_bytes"), [(3, 10**6), (100, 3_500)])
def test_what_does_not_fit_is_remembered_by_name_only(limit: int, max_bytes: int) -> None:
    pending = Pending(limit, max_bytes)
    pending.add([large(1_000) for _ in range(10)])
    assert pending.next_behind() is None, "there is too much in memory to read more"
    taken = [pending.take(0) for _ in range(4)]
    assert [turns is not None for turns in taken] == [True, True, True, False]
    assert pending.next_behind() == (KEY, False)
    assert pending.idle


def test_an_execution_that_is_to_be_exported_stays_so() -> None:
    pending = Pending(1, 1)
    pending.leave_behind(KEY, forced=True)
    pending.leave_behind(KEY)
    assert pending.next_behind() == (KEY, True)


def test_a_gap_has_the_history_read_and_nothing_is_exported_twice() -> None:
    behind: list[Key] = []
    projector = Projector("hub", TraceSettings(), lambda key, **_: behind.append(key))
    turns = checkpoints(everything())
    spans, reached = projector.project(Turns((turns[0],)))
    assert reached == (KEY, 1)
    projector.exported(reached)
    assert projector.project(Turns((turns[2],))) == ([], None)
    assert behind == [KEY]
    rest, reached = projector.project(Turns(tuple(turns), whole=True))
    whole, _ = Projector("hub", TraceSettings(), lambda key, **_: None).project(Turns(tuple(turns), whole=True))
    assert [*spans, *rest] == whole
    assert reached == (KEY, len(turns))


def test_a_rewound_execution_is_read_to_its_end() -> None:
    behind: list[Key] = []
    projector = Projector("hub", TraceSettings(), lambda key, **_: behind.append(key))
    turns = checkpoints(rewound())
    spans, reached = projector.project(Turns(tuple(turns), whole=True))
    assert (tuple(spans), reached, behind) == (project("hub", rewound()), (KEY, len(turns)), [])


def test_spans_that_were_not_taken_come_again() -> None:
    projector = Projector("hub", TraceSettings(), lambda key, **_: None)
    turns = checkpoints(everything())
    first, _ = projector.project(Turns((turns[0],)))
    again, _ = projector.project(Turns((turns[0],), whole=True))
    assert first == again != []


def test_memory_for_instances_is_bounded() -> None:
    behind: list[Key] = []
    projector = Projector("hub", TraceSettings(max_instances=1), lambda key, **_: behind.append(key))
    first = turn(0, [started("one")], []), turn(1, [], [ev.CustomStatusSet(1, "1")])
    projector.project(Turns((Checkpoint("one", "e1", 0, 1, "t", tuple(first[0])),)))
    projector.project(Turns((Checkpoint("two", "e1", 0, 1, "t", tuple(turn(0, [started("two")], []))),)))
    projector.project(Turns((Checkpoint("one", "e1", 1, 2, "t", tuple(first[1])),)))
    assert behind == [("one", "e1")]


class Exporting:
    """What a worker does with committed turns, one step at a time; memory is scarce, and it may die at any step."""

    def __init__(self, settings: TraceSettings, histories: list[list[ev.HistoryEvent]]) -> None:
        self.settings = settings
        self.to_commit = [checkpoints(history, key_of(history)) for history in histories]
        self.stored: dict[Key, list[Checkpoint]] = {key_of(history): [] for history in histories}
        self.exported: list[SpanData] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """A worker takes over: it knows nothing, and has to look at everything."""
        self.pending = Pending(self.settings.max_pending, self.settings.max_bytes)
        self.projector = Projector("hub", self.settings, self.pending.leave_behind)
        for key in self.stored:
            self.pending.leave_behind(key)

    def commit(self, which: int) -> None:
        turns = self.to_commit[which % len(self.to_commit)]
        if turns:
            checkpoint = turns.pop(0)
            self.stored[checkpoint.instance_id, checkpoint.execution_id].append(checkpoint)
            self.pending.add([checkpoint])

    def export(self) -> None:
        turns = self.pending.take(0)
        if turns is None:
            return
        spans, reached = self.projector.project(turns)
        self.exported += spans
        if reached is not None:
            self.projector.exported(reached)

    def read(self) -> None:
        found = self.pending.next_behind()
        if found is not None and (committed := self.stored[found[0]]):
            self.pending.add_whole(Turns(tuple(committed), whole=True, forced=found[1]))


def key_of(history: list[ev.HistoryEvent]) -> Key:
    begun = [event for event in history if isinstance(event, ev.ExecutionStarted | ev.ExecutionForked)][-1]
    return begun.instance_id, begun.execution_id


steps = st.lists(st.sampled_from(["commit 0", "commit 1", "commit 2", "export", "read", "die"]), max_size=60)
tight = st.builds(
    TraceSettings,
    max_pending=st.integers(1, 3),
    max_instances=st.integers(1, 3),
    cadence=st.sampled_from(["commit", "completion"]),
    sample=st.sampled_from([1.0, 0.5]),
)


some_histories = st.lists(
    st.sampled_from(sorted(all_histories())),
    min_size=1,
    max_size=3,
    unique_by=lambda name: key_of(all_histories()[name]),  # two are of the same execution, made up differently
)


@examples(deadline=None)  # a busy machine is no fault
@given(tight, some_histories, steps)
def test_whatever_happens_every_span_comes_out_and_always_the_same(
    settings: TraceSettings, names: list[str], doing: list[str]
) -> None:
    histories = [all_histories()[name] for name in names]
    exporting = Exporting(settings, histories)
    for step in doing:
        match step.split():
            case ["commit", which]:
                exporting.commit(int(which))
            case ["export"]:
                exporting.export()
            case ["read"]:
                exporting.read()
            case _:
                exporting.begin_anew()
    for number in range(len(histories)):
        while exporting.to_commit[number]:
            exporting.commit(number)
    while not exporting.pending.idle:
        exporting.export()
        exporting.read()
    check_exported(settings, histories, exporting.exported)


def check_exported(settings: TraceSettings, histories: list[list[ev.HistoryEvent]], exported: list[SpanData]) -> None:
    expected = {span.span_id: span for history in histories for span in project("hub", history, instance_of(history))}
    for span in exported:
        assert span == expected[span.span_id]
    if settings.sample == 1.0:
        assert {span.span_id for span in exported} == expected.keys()
