"""What the commands that look show: field names are a promise to scripts, the text to people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command

# As the HTTP API names them, and then ours.
STATUS_FIELDS = [
    "name",
    "instanceId",
    "runtimeStatus",
    "input",
    "customStatus",
    "output",
    "createdTime",
    "lastUpdatedTime",
    "failureDetails",
    "completedTime",
    "executionId",
    "version",
    "tags",
    "problem",
    "parentInstanceId",
    "rootInstanceId",
    "scheduledStartTime",
    "purgeTime",
    "hold",
    "forkedFrom",
]


def ids(found: Any) -> set[str]:
    return {each["instanceId"] for each in (found if isinstance(found, list) else [found])}


def test_list_as_json_is_a_line_for_each_instance(looking: Command) -> None:
    done = looking("list", "--json")
    assert done.code == 0
    assert {"done-1", "failed-1", "family-1", "waiting-1"} < ids(done.json)
    assert all(list(each) == STATUS_FIELDS for each in done.json)


def test_list_in_a_pipe_is_separated_by_tabs(looking: Command) -> None:
    header, *rows = looking("list", "--prefix", "done").lines
    assert header.split("\t") == ["id", "name", "status", "created", "updated", "custom status"]
    (row,) = [row.split("\t") for row in rows]
    assert (row[:3], len(row)) == (["done-1", "greet", "Completed"], 6)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["--status", "failed"], {"failed-1"}),
        (["--status", "Failed", "--status", "running"], {"failed-1", "waiting-1"}),
        (["--name", "approval"], {"waiting-1"}),
        (["--prefix", "fam", "--name", "family"], {"family-1"}),
    ],
)
def test_conditions_choose(looking: Command, conditions: list[str], expected: set[str]) -> None:
    assert ids(looking("list", "--json", *conditions).json) == expected


def test_the_limit_cuts(looking: Command) -> None:
    every = len(looking("list", "--json", "--limit", "0").lines)
    assert every == 6  # four, and two children
    assert len(looking("list", "--json", "--limit", "2").lines) == 2


def test_show_as_json(looking: Command) -> None:
    shown = looking("show", "done-1", "--json").json
    assert list(shown) == STATUS_FIELDS
    assert (shown["input"], shown["output"], shown["tags"]) == (["Ann"], "Hello Ann!", {"shop": "7"})
    assert shown["createdTime"].endswith("Z")
    failed = looking("show", "failed-1", "--json").json["failureDetails"]
    assert (failed["errorType"], failed["errorMessage"]) == ("builtins.ValueError", "not today")


def test_show_for_people_leaves_out_what_is_not_there(looking: Command) -> None:
    shown = dict(line.split("\t", 1) for line in looking("show", "failed-1").lines)
    assert (shown["runtimeStatus"], shown["failure"]) == ("Failed", "builtins.ValueError: not today")
    assert "customStatus" not in shown


@pytest.mark.parametrize(("instance", "code"), [("done-1", 0), ("failed-1", 1)])
def test_waiting_for_what_has_ended_says_how(looking: Command, instance: str, code: int) -> None:
    assert looking("show", instance, "--wait").code == code
    assert looking("show", instance, "--watch").code == code


def test_waiting_has_a_limit(looking: Command) -> None:
    done = looking("show", "waiting-1", "--wait", "--timeout", "0.2")
    assert (done.code, done.err) == (1, "durable: waiting-1 is still Running after 0.2 s; it goes on\n")


def test_watching_in_a_pipe_is_a_line_for_each_change(looking: Command) -> None:
    done = looking("show", "waiting-1", "--watch", "--timeout", "0.6")
    (line,) = done.lines
    assert line.split("\t")[:2] == ["Running", "waiting"]


def test_history_as_a_table(looking: Command) -> None:
    header, *rows = [line.split("\t") for line in looking("history", "done-1").lines]
    assert header == ["#", "EventType", "Timestamp", "Name", "Input", "Result", "Status"]
    assert [row[1] for row in rows if not row[1].startswith("Orchestrator")] == [
        "ExecutionStarted",
        "TaskScheduled",
        "TaskCompleted",
        "ExecutionCompleted",
    ]
    completed = next(row for row in rows if row[1] == "TaskCompleted")
    assert (completed[3], completed[5]) == ("hello", "Hello Ann!")
    assert rows[-2 if rows[-1][1] == "OrchestratorCompleted" else -1][6] == "Completed"


def test_history_as_json_has_all_that_is_recorded(looking: Command) -> None:
    events = looking("history", "failed-1", "--json").json
    assert all(list(event)[:6] == ["EventType", "Timestamp", "Name", "Input", "Result", "Status"] for event in events)
    completed = next(event for event in events if event["EventType"] == "ExecutionCompleted")
    assert completed["Status"] == "Failed"
    assert "not today" in completed["FailureDetails"]["stackTrace"]


def test_the_history_of_an_execution(looking: Command) -> None:
    current = looking("show", "done-1", "--json").json["executionId"]
    assert looking("executions", "done-1").lines == ["execution", current]
    assert looking("executions", "done-1", "--json").json == [current]
    assert looking("history", "done-1", "--execution", current).lines == looking("history", "done-1").lines


def test_tree(looking: Command) -> None:
    root, *children = looking("tree", "family-1").lines
    assert root == "family family-1 Completed"
    assert len(children) == 2
    assert all(child.startswith("  greet ") and child.endswith(" Completed") for child in children)
    shape = looking("tree", "family-1", "--json").json
    assert [(child["name"], child["input"], child["children"]) for child in shape["children"]] == [
        ("greet", ["Bob"], []),
        ("greet", ["Cid"], []),
    ]


def test_hubs_workers_and_health(looking: Command) -> None:
    assert looking("hubs").lines == ["hub", "default"]
    assert looking("hubs", "--json").json == {"hub": "default"}
    assert looking("workers", "--json").out == ""  # the one that filled the store has left
    assert looking("health", "--json").json == {
        "status": "ok",
        "hub": "default",
        "connected": True,
        "workers": 0,
        "problem": None,
    }


def test_control_characters_and_markup_are_only_text(durable: Command) -> None:
    assert durable("start", "greet", "--id", "x", "--input", '"[red]\\u001b[31m\\t"').code == 0
    shown = durable("show", "x").out
    assert "\x1b" not in shown
    assert '"[red]\\u001b[31m\\t"' in shown


def test_who_looks_makes_no_file(durable: Command, tmp_path: Path) -> None:
    for command in (["list"], ["show", "x"], ["hubs"], ["workers"], ["health"]):
        durable(*command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mongodb
def test_on_mongodb(durable: Command, mongodb_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_URL", mongodb_database_url)
    assert durable("hubs").lines == ["hub"]
    assert durable("list").code == 3
    assert durable("start", "greet", "--input", '"Ann"', "--id", "a", "--hub", "shop").lines == ["a"]
    assert durable("show", "a", "--hub", "shop", "--json").json["input"] == ["Ann"]
    assert durable("hubs").lines == ["hub", "shop"]


def test_the_help_needs_neither_stores_nor_tables(durable: Command) -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from durable.cli import main; main();"
        "print(sorted({'rich', 'watchfiles', 'sqlite3', 'pymongo', 'motor', 'httpx'}.intersection(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "history" in done.stdout
