"""``durable bench``: what it prints, and that it leaves a store as it was."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
from pymongo import MongoClient

from durable import TaskHub
from tests.cli.conftest import Command
from tests.cli.processes import running, said, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENVIRONMENT = {"time", "durable", "python", "system", "machine", "cpus", "load", "store", "durability", "runs", "quick"}
COSTS = {"CPU ms each", "commits each", "bytes each", "peak MiB", "floor CPU ms each", "x floor"}
QUICKLY = ("--quick", "--runs", "1")


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def used(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that has a hub already."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'mine.db'}"
    else:
        url = request.getfixturevalue("mongodb_database_url")
    asyncio.run(_open(url))
    return url


async def _open(url: str) -> None:
    async with TaskHub(url):
        pass


def contents(url: str) -> Any:
    """What there is in a store, as far as it is not the business of the hub in it."""
    if url.startswith("sqlite"):
        return sorted(path.name for path in Path(url.removeprefix("sqlite:///")).parent.iterdir())
    with MongoClient[dict[str, object]](url) as client:
        return sorted(client.get_default_database().list_collection_names())


def test_json_has_the_environment_and_the_costs(durable: Command, used: str) -> None:
    before = contents(used)
    done = durable("bench", "--url", used, "--only", "W1", *QUICKLY, "--json")
    assert done.code == 0, done.err
    first, *lines = done.json
    assert set(first["environment"]) >= ENVIRONMENT
    assert [(line["workload"], line["each"], line["runs"]) for line in lines] == [
        ("W1-latency", "instance", 1),
        ("W1-throughput", "instance", 1),
    ]
    counted = "syncs each" if used.startswith("sqlite") else "write commands each"
    for line in lines:
        assert set(line["figures"]) >= {*COSTS, counted}
        assert all(value > 0 for value in line["figures"].values())
    alone, together = (line["figures"] for line in lines)
    assert alone[counted] >= 4 > 2 > together[counted]  # a turn a write, and turns that share one
    assert contents(used) == before


def test_in_a_pipe_it_is_lines_of_fields(durable: Command, tmp_path: Path) -> None:
    done = durable("bench", "--url", f"sqlite:///{tmp_path / 'x.db'}", "--only", "W2", *QUICKLY)
    assert done.code == 0, done.err
    about, (header, row) = done.lines[:-2], done.lines[-2:]
    assert {line.split("\t")[0] for line in about} >= ENVIRONMENT
    cells = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert cells["workload"] == "W2"
    assert cells["figures"].startswith("activities/s ")
    assert float(cells["x floor"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.mongodb
def test_two_workers(durable: Command, mongodb_database_url: str) -> None:
    before = contents(mongodb_database_url)
    done = durable("bench", "--url", mongodb_database_url, "--only", "W9", *QUICKLY, "--json")
    assert done.code == 0, done.err
    _, line = done.json
    assert line["figures"]["share of the busier worker %"] == 50
    assert line["figures"]["two workers / one"] > 0
    assert contents(mongodb_database_url) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "hello"], "no workload 'hello'"),
        (["--runs", "0"], "at least once"),
        (["--url", "redis://x"], "not on 'redis'"),
        (["--url", "memory://", "--only", "W9"], "no workload 'W9'"),
    ],
)
def test_what_cannot_be_run_is_refused(durable: Command, arguments: list[str], said: str, tmp_path: Path) -> None:
    done = durable("bench", *arguments)
    assert (done.code, said in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_said(durable: Command) -> None:
    done = durable("bench", "--url", "mongodb://127.0.0.1:9/x")
    assert (done.code, "MongoDB did not do it" in done.err) == (5, True), done.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where files of a benchmark are made; what its process says is beside it."""
    made = tmp_path / "data"
    made.mkdir()
    return made


def command_on(folder: Path, only: str) -> tuple[str, ...]:
    return ("bench", "--url", f"sqlite:///{folder / 'x.db'}", "--only", only, *QUICKLY, "--json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    with running(*command_on(folder, "W7"), url=f"sqlite:///{tmp_path / 'x.db'}") as process:
        wait_until(lambda: bool(list(folder.rglob("*.db-wal"))) or process.poll() is not None, "a run")
        process.send_signal(number)
        assert process.wait(30) == 130
    assert list(folder.iterdir()) == []
    wait_until(lambda: processes_on(folder) == [], "the end of the run's own process")


def test_a_workload_that_fails_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with running(*command_on(folder, "W7,W2"), url=url) as process:
        wait_until(lambda: bool(list(folder.rglob("*.db-wal"))) or process.poll() is not None, "a run")
        (run,) = (pid for pid in processes_on(folder) if pid != process.pid)
        os.kill(run, signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    assert [orjson.loads(line).get("workload") for line in out.splitlines()] == [None, "W2"]
    assert process.returncode == 1
    assert "workload W7 ended with code -9" in said(url)
    assert list(folder.iterdir()) == []


def processes_on(directory: Path) -> list[int]:
    """The processes whose command line names ``directory`` (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if str(directory).encode() in command:
            found.append(int(process.name))
    return found
