"""Counting, purging, terminating many, restarting, forking and holding by command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import InstanceNotFoundError, TaskHub
from tests.cli.conftest import Command, fill

FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 3, 4


@pytest.fixture
def own(durable: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command on a filled store that the test may change."""
    url = f"sqlite:///{tmp_path / 'own.db'}"
    monkeypatch.setenv("DURABLE_URL", url)
    asyncio.run(fill(url))
    return durable


async def is_there(instance_id: str) -> bool:
    async with TaskHub() as hub:
        try:
            await hub.get(instance_id).status()
        except InstanceNotFoundError:
            return False
        return True


def test_count(looking: Command) -> None:
    assert looking("count", "--json").json == {"Completed": 4, "Failed": 1, "Running": 1}
    assert looking("count", "--by", "name", "--prefix", "done", "--json").json == {"greet": 1}
    assert looking("count", "--status", "failed").lines == ["status\tinstances", "Failed\t1"]


def test_conditions_of_time_and_tags(looking: Command) -> None:
    assert looking("list", "--json", "--tag", "shop=7").json["instanceId"] == "done-1"
    assert looking("list", "--json", "--tag", "shop=8").lines == []
    assert looking("list", "--json", "--custom-status", '"waiting"').json["instanceId"] == "waiting-1"
    assert len(looking("list", "--json", "--created-from", "1d").lines) == 6
    assert looking("list", "--json", "--created-to", "1d").lines == []
    assert looking("list", "--json", "--updated-from", "1d", "--prefix", "done").json["instanceId"] == "done-1"
    newest = [each["instanceId"] for each in looking("list", "--json").json]
    assert [each["instanceId"] for each in looking("list", "--json", "--oldest").json] == newest[::-1]


def test_purge_one(own: Command) -> None:
    assert own("purge", "done-1", "--json").json == {"instancesDeleted": 1}
    assert not asyncio.run(is_there("done-1"))
    assert own("purge", "done-1").code == NOT_FOUND
    assert own("purge", "waiting-1").code == CONFLICT
    assert own("purge", "family-1").lines == ["purged 3 instances"]  # with its children


def test_purge_many(own: Command) -> None:
    assert own("purge", "--all", "--yes").lines == ["purged 5 instances"]
    assert asyncio.run(is_there("waiting-1"))


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False), ("", False)])
def test_many_are_asked_about(own: Command, answer: str, gone: bool) -> None:
    done = own("purge", "--status", "failed", stdin=f"{answer}\n", at_terminal=True)
    assert "Purge 1 instances that have ended in hub 'default'?" in done.err
    assert (done.code == 0, asyncio.run(is_there("failed-1"))) == (gone, not gone)


def test_terminate_many(own: Command) -> None:
    own("start", "approval", "--id", "other-1")
    assert own("terminate", "--name", "approval", "--yes", "--json").json == {"instancesTerminated": 2}


def test_start_at_a_later_time(own: Command) -> None:
    assert own("start", "greet", "--input", '"Eve"', "--id", "later", "--at", "1h").code == 0
    assert own("show", "later", "--json").json["runtimeStatus"] == "Pending"
    assert own("start", "greet", "--id", "later", "--on-conflict", "use_existing").lines == ["later"]
    assert own("start", "greet", "--id", "later", "--on-conflict", "whatever").code == USAGE


def test_restart_and_fork(own: Command) -> None:
    (new,) = own("restart", "done-1").lines
    assert own("show", new, "--json").json["input"] == ["Ann"]
    assert own("restart", "done-1", "--same-id").lines == ["done-1"]
    assert own("restart", "nobody").code == NOT_FOUND
    forked: Any = own("fork", "family-1", "--id", "branch", "--json").json
    assert forked == {"id": "branch"}
    assert own("fork", "family-1", "--from-event", "0").code == USAGE


def test_hold_and_release(own: Command) -> None:
    assert own("hold", "done-1", "--reason", "a lawsuit").lines == ["held done-1"]
    assert own("purge", "--prefix", "done-", "--yes").lines == ["purged 0 instances"]
    assert own("release", "done-1").lines == ["released done-1"]
    assert own("purge", "--prefix", "done-", "--yes").lines == ["purged 1 instances"]
