"""The projection of histories to spans: snapshots for every kind of event, and what holds for all histories."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from durable.core import events as ev
from durable.core.events import HistoryEvent
from durable.projection import Projection, RootSpan, SpanData, TraceMode, project, timeline, trace_id, trace_url
from tests.tracing.histories import (
    CALLER,
    LATER,
    SECOND,
    all_histories,
    entity,
    entity_later,
    everything,
    instance_of,
    rewound,
    started,
    turn,
)
from tests.tracing.snapshots import FOLDER, spans_text

ROOT = Path(__file__).parent.parent.parent
HISTORIES = all_histories()
MODES = [(mode, root) for mode in get_args(TraceMode) for root in get_args(RootSpan)]

names = st.sampled_from(sorted(HISTORIES))
modes = st.sampled_from(MODES)


@pytest.mark.parametrize("name", HISTORIES)
def test_the_spans_are_those_of_the_snapshot(name: str) -> None:
    assert spans_text(HISTORIES[name]) == (FOLDER / f"{name}.jsonl").read_text("utf-8")


def test_every_kind_of_event_is_in_a_snapshot() -> None:
    seen = {type(event) for history in HISTORIES.values() for event in history}
    assert set(get_args(HistoryEvent)) - seen == set()


@examples(deadline=None)  # a busy machine is no fault
@given(names, modes, st.lists(st.integers(0, 100)))
def test_pieces_of_any_size_give_the_same_spans(name: str, mode: tuple[TraceMode, RootSpan], cuts: list[int]) -> None:
    history = HISTORIES[name]
    projection = Projection("hub", instance_of(history), trace=mode[0], root_span=mode[1])
    places = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
    spans = [span for start, end in pairwise(places) for span in projection.feed(history[start:end])]
    assert tuple(spans) == project("hub", history, instance_of(history), trace=mode[0], root_span=mode[1])


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_each_id_stands_for_one_span(name: str, mode: tuple[TraceMode, RootSpan]) -> None:
    spans = project("hub", HISTORIES[name], instance_of(HISTORIES[name]), trace=mode[0], root_span=mode[1])
    assert len({span.span_id for span in spans}) == len(spans)
    assert all(0 < span.span_id < 2**64 and 0 < span.trace_id < 2**128 for span in spans)


@pytest.mark.parametrize("name", HISTORIES)
def test_children_lie_within_their_parents_and_none_is_an_orphan(name: str) -> None:
    history = HISTORIES[name]
    spans = project("hub", history, instance_of(history))
    by_id = {span.span_id: span for span in spans}
    projection = Projection("hub")
    projection.feed(history)
    assert projection.place is not None
    for span in spans:
        assert span.start <= span.end
        if span.parent_id is None or span.parent_id == projection.place.parent_id:
            continue
        if projection.place.instance_id.startswith("@"):
            continue  # below the caller's span, which is in another history
        parent = by_id[span.parent_id]
        assert parent.start <= span.start <= span.end <= parent.end, (span.name, parent.name)


def test_what_came_before_a_cut_is_never_changed_by_what_follows() -> None:
    for history in HISTORIES.values():
        whole = project("hub", history, instance_of(history))
        for cut in range(len(history)):
            part = project("hub", history[:cut], instance_of(history))
            assert part == whole[: len(part)]


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_other_processes_and_hash_seeds_give_the_same(seed: str) -> None:
    code = "from tests.tracing.snapshots import *\nfor h in all_histories().values(): print(spans_text(h), end='')"
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "backends", "tracing"))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout == "".join(spans_text(history) for history in HISTORIES.values())


# --- what single rules are for


def one(spans: tuple[SpanData, ...], name: str, kind: str) -> SpanData:
    (found,) = [span for span in spans if (span.name, span.kind) == (name, kind)]
    return found


def test_lost_attempts_are_spans_and_what_the_code_recorded_is_on_the_last() -> None:
    spans = project("hub", everything())
    attempts = [span for span in spans if (span.name, span.kind) == ("activity:charge", "SERVER")]
    assert [span.attributes["durable.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.attributes.get("error.type") for span in attempts] == ["lease_lost", "lease_lost", None]
    assert attempts[2].attributes["order"] == 7
    assert [event.name for event in attempts[2].events] == ["charged"]
    assert {span.parent_id for span in attempts} == {one(spans, "activity:charge", "CLIENT").span_id}


def test_a_signal_for_a_later_time_is_a_span_when_it_is_done() -> None:
    at_first, later = project("hub", entity()), project("hub", entity_later())
    assert not [span for span in at_first if "durabletask.task.scheduled_time" in span.attributes]
    (span,) = later
    assert (span.name, span.kind, span.attributes["order"]) == ("entity:stock:add", "CONSUMER", 7)
    assert (span.start, span.end) == (LATER.timestamp * 1000, (LATER.timestamp + 10 * SECOND) * 1000)
    assert span.trace_id == trace_id("hub", "@stock@7", LATER.message_id or "")


def test_what_an_operation_put_on_its_span_is_on_it() -> None:
    taken = [span for span in project("hub", entity()) if span.attributes.get("order") == 7]
    assert [(span.name, span.kind, span.error) for span in taken] == [("entity:stock:take", "SERVER", None)]
    assert [event.name for event in taken[0].events] == ["charged"]


def test_a_trace_of_its_own_links_to_its_caller_and_a_joined_one_is_below_it() -> None:
    own = one(project("hub", everything()), "orchestration:checkout@(2)", "SERVER")
    joined = one(project("hub", everything(), trace="join"), "orchestration:checkout@(2)", "SERVER")
    assert own.parent_id is None
    assert own.trace_id == trace_id("hub", "order-1", "e1")
    assert f"{own.links[0].span_id:016x}" == CALLER.split("-")[2]
    assert (f"{joined.trace_id:032x}", f"{joined.parent_id:016x}") == tuple(CALLER.split("-")[1:3])


def test_a_child_and_its_child_are_in_the_trace_of_the_one_at_the_top() -> None:
    parent = ev.ParentInstance("main-1", "m", 4, "top-1", "t")
    spans = project("hub", turn(0, [started(parent=parent)], []))
    assert {span.trace_id for span in spans} == {trace_id("hub", "top-1", "t")}


def test_the_next_generation_has_a_trace_of_its_own_linked_both_ways() -> None:
    old = one(project("hub", everything()), "orchestration:checkout@(2)", "SERVER")
    next_one = [
        *turn(7, [started(execution_id="e1.1", version="2")], [ev.ExecutionCompleted(1, "Completed", "null")]),
    ]
    new = one(project("hub", next_one), "orchestration:checkout@(2)", "SERVER")
    assert (old.links[-1].trace_id, old.links[-1].span_id) == (new.trace_id, new.span_id)
    assert (new.links[0].trace_id, new.links[0].span_id) == (old.trace_id, old.span_id)


def test_each_run_of_a_rewound_execution_is_a_span_linked_to_the_one_before() -> None:
    runs = [
        span for span in project("hub", rewound()) if span.name == "orchestration:checkout" and span.kind == "SERVER"
    ]
    assert [span.attributes["durabletask.task.status"] for span in runs] == ["Failed", "Terminated", "Completed"]
    assert [link.span_id for span in runs for link in span.links] == [runs[0].span_id, runs[1].span_id]


def test_the_url_of_a_trace_is_known_without_asking_anybody() -> None:
    url = trace_url("http://jaeger/trace/{trace_id}?of={instance_id}", "hub", started("order 1"))
    assert url == f"http://jaeger/trace/{trace_id('hub', 'order 1', 'e1'):032x}?of=order%201"
    with pytest.raises(ValueError, match="trace_id"):
        trace_url("http://jaeger/{trace}", "hub", started())


def test_a_timeline_shows_what_is_open() -> None:
    history = everything()
    rows = timeline(history[: history.index(ev.OrchestratorCompleted(history[0].timestamp)) + 1])
    assert [(row.label, row.state, row.depth) for row in rows if row.task_id == 1] == [("activity:charge", "open", 1)]
    assert rows[0].state == "open"
    done = timeline(history)
    assert {row.state for row in done} == {"done", "failed", "canceled"}
    assert [row.depth for row in done if row.attempt == 3] == [2, 2]
