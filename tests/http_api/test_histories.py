"""Histories as JSON: every kind of event there is has its rows."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from durable.core import events as ev
from durable.core.codec import event_from_dict
from durable.core.errors import FailureDetails
from durable.core.events import HistoryEvent
from durable.http.histories import all_events, projected

GOLDEN = sorted((Path(__file__).resolve().parent.parent / "golden").glob("*.json"))
SECRET = "the line in the server's source"

_VALUES: dict[str, Any] = {
    "input": "[1]",
    "result": '{"a": 1}',
    "state": "{}",
    "status": '"Completed"',
    "terminate_with": "null",
    "heartbeat": "3",
    "failure": FailureDetails("builtins.ValueError", "bad", SECRET, FailureDetails("builtins.KeyError", "k", SECRET)),
    "parent": ev.ParentInstance("p", "e", 1, "r"),
    "previous": ev.PreviousAttempt(1, 1, "2"),
    "events": (ev.EventRaised(1, "go", "7", "id"), ev.ExecutionCancelRequested(1, "why", '"x"')),
    "scheduled": (ev.EntityOperationSignaled(1, 0, "@a@b", "add", "[1]", 5),),
    "tags": {"k": "v"},
    "lock_set": ("@a@b",),
    "locked_by": ("i", "e", 1),
    "children": (1, 2),
    "at": SECRET,
}


def filled(kind: type[Any]) -> Any:
    """An event of this kind with every field set."""
    numbers = ("timestamp", "task_id", "fire_at", "keep", "attempt", "started_at", "scheduled_at", "timeout", "engine")
    given = {
        one.name: _VALUES.get(one.name, 1_700_000_000_000_001 if one.name in numbers else "text")
        for one in fields(kind)
        if one.init
    }
    return kind(**given)


@pytest.mark.parametrize("kind", get_args(HistoryEvent), ids=lambda kind: kind.__name__)
def test_every_kind_of_event_can_be_shown(kind: type[Any]) -> None:
    event = filled(kind)
    (whole,) = all_events([event])
    rows = projected([event], show_output=True)
    assert (whole["eventType"], whole["timestamp"]) == (kind.__name__, "2023-11-14T22:13:20.000001Z")
    assert [row["EventType"] for row in rows] == ([] if kind.__name__.startswith("Orchestrator") else [kind.__name__])
    assert SECRET not in orjson.dumps([whole, rows]).decode()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kept_histories_can_be_shown(path: Path) -> None:
    history = [event_from_dict(event) for event in json.loads(path.read_text("utf-8"))]
    rows = projected(history, show_output=False)
    assert [row["eventType"] for row in all_events(history)] == [event.type for event in history]
    scheduled = [event for event in history if event.type in ("TaskScheduled", "TaskCompleted", "TaskFailed")]
    outcomes = [event for event in scheduled if event.type != "TaskScheduled"]
    shown = [row for row in rows if row["EventType"] in ("TaskCompleted", "TaskFailed")]
    assert len(shown) == len(outcomes)
    assert all(row.keys() >= {"FunctionName", "ScheduledTime"} for row in shown)
    assert not any("Input" in row or "Result" in row for row in rows)
