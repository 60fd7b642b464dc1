"""The stored form of history events, ids, and the fold over events."""

from __future__ import annotations

from typing import get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.core.codec import event_from_dict, event_to_dict
from durable.core.errors import FailureDetails, UnsupportedHistoryError
from durable.core.events import HistoryEvent, TaskCompleted, TaskFailed, TaskScheduled
from durable.core.ids import check_instance_id, checkpoint_id, partition_of
from durable.core.state import InstanceState, RuntimeStatus

events = st.one_of([st.from_type(cls) for cls in get_args(HistoryEvent)])


@given(events)
def test_every_event_survives_its_stored_form(event: HistoryEvent) -> None:
    stored = event_to_dict(event)
    assert event_from_dict(stored) == event
    assert stored["type"] == type(event).__name__ == event.type
    assert None not in stored.values()


def test_the_json_form_of_an_event_is_its_stored_form() -> None:
    failure = FailureDetails("a.B", "text", "stack", FailureDetails("c.D", "cause"))
    event = TaskFailed(1, 2, failure, 3, 4, "worker")
    assert event_from_dict(orjson.loads(orjson.dumps(event))) == event


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"type": "FromTheFuture", "timestamp": 1}, "of type 'FromTheFuture' is not known"),
        ({"type": "TaskCompleted", "timestamp": 1, "task_id": 1, "result": "1", "colour": "red"}, "not know: colour;"),
        ({"type": "TaskCompleted", "timestamp": 1, "task_id": 1}, "TaskCompleted is not as .*'result'"),
        ({"type": "TaskFailed", "timestamp": 1, "task_id": 1, "failure": {}}, "TaskFailed is not as .*'error_type'"),
        ({}, "of type '' is not known"),
    ],
)
def test_what_a_newer_version_wrote_is_not_guessed_at(stored: dict[str, object], reason: str) -> None:
    with pytest.raises(UnsupportedHistoryError, match=f"{reason}.*upgrade this worker"):
        event_from_dict(stored)


def test_partitions_and_keys_never_change() -> None:
    # Stored data depends on these values: they must be the same in every version.
    assert [partition_of(name, 16) for name in ("order-1", "a", "ü")] == [15, 3, 5]
    assert checkpoint_id("i", "e", 12) == "i/e/00000012"


@given(st.text(min_size=1, max_size=300))
def test_instance_ids_are_kept_or_refused_with_a_reason(name: str) -> None:
    try:
        assert check_instance_id(name) == name
    except ValueError as error:
        assert "instance id" in str(error)
    else:
        assert 0 <= partition_of(name, 16) < 16


def test_only_the_first_answer_to_something_outstanding_is_news() -> None:
    state = InstanceState()
    scheduled = TaskScheduled(1, 1, "a", "[]")
    state.apply(scheduled)
    answer = TaskCompleted(2, 1, "null")
    assert state.accepts(answer)
    assert not state.accepts(TaskCompleted(2, 9, "null"))
    assert state.due_at == 0
    state.apply(answer)
    assert not state.accepts(answer)
    assert state.due_at is None
    assert state.status is RuntimeStatus.PENDING


def test_failures_are_storable_whatever_they_say() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert "could not be made" in FailureDetails.of(OddError()).message
    assert FailureDetails.of(ValueError("\ud800")).message == "\\ud800"
    long = FailureDetails.of(ValueError("x" * 100_000)).message
    assert len(long) < 40_000
    assert "characters left out" in long
