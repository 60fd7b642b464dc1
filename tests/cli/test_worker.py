"""``durable worker`` as a process: it runs instances, stops on signals, and reloads."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable import RuntimeStatus, TaskHub
from durable.core.events import TaskCompleted
from durable.handle import InstanceStatus
from tests.cli.conftest import Command
from tests.cli.processes import ROOT, environment, running, said, wait_until, worker

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'worker.db'}"


async def look(url: str, instance_id: str) -> tuple[InstanceStatus, list[Any]]:
    async with TaskHub(url) as hub:
        handle = hub.get(instance_id)
        return await handle.status(), list(await handle.history())


def test_start_and_wait(durable: Command, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DURABLE_URL", url)
    (tmp_path / "name.json").write_text('"Ann"')
    with worker(url):
        assert durable("start", "greet", "--input", '"Ann"', "--wait", "--json").json["output"] == "Hello Ann!"
        assert durable("start", "greet", "--input", "@name.json", "--wait", "--json").json["output"] == "Hello Ann!"
        bob = durable("start", "greet", "--input", "-", "--wait", "--json", "--tag", "a=b", stdin='"Bob"').json
        assert (bob["output"], bob["tags"]) == ("Hello Bob!", {"a": "b"})
        refused = durable("start", "refuse", "--wait")
        assert (refused.code, "not today" in refused.out) == (1, True)

        assert durable("start", "approval", "--id", "a").lines == ["a"]
        assert durable("suspend", "a", "--reason", "later").lines == ["suspended a"]
        assert durable("resume", "a", "--json").json == {"id": "a"}
        assert durable("raise", "a", "answer", "--data", '{"yes": true}', "--key", "1").lines == ["raised answer to a"]
        assert durable("show", "a", "--wait", "--json").json["output"] == {"yes": True}

        durable("start", "approval", "--id", "b")
        assert durable("cancel", "b").code == 0
        assert durable("show", "b", "--wait", "--json", "--timeout", "20").json["runtimeStatus"] == "Canceled"
        durable("start", "approval", "--id", "c")
        assert durable("terminate", "c", "--reason", "enough").lines == ["terminated c"]
        shown = durable("show", "c", "--wait", "--json", "--timeout", "20").json
        assert (shown["runtimeStatus"], shown["output"]) == ("Terminated", "enough")
        (here,) = [durable("workers", "--json").json]
        assert (here["partitions"], durable("health", "--json").json["workers"]) == (list(range(16)), 1)


def test_a_worker_serves_the_queues_that_it_is_told(
    durable: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURABLE_URL", url)
    with running("worker", "tests.cli.orders:hub", "--queue", "male", url=url) as process:
        assert process.wait(60) != 0
        assert "no queue is registered as 'male'; did you mean 'mail'?" in said(url)
    with running("worker", "tests.cli.orders:hub", "--queue", "mail", url=url):
        assert durable("start", "post", "--input", '"a"', "--wait", "--json").json["output"] == "sent a"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully(
    durable: Command, url: str, tmp_path: Path, number: signal.Signals, loop: str
) -> None:
    started = tmp_path / "started"
    with worker(url, DURABLE_EVENT_LOOP=loop) as process:
        assert durable("start", "host_loop", "--wait", "--json", "--url", url).json["output"] == loop
        arguments = ["--input", f'"{started}"', "--input", "1.5"]
        assert durable("start", "long_work", "--id", "w", *arguments, "--url", url).code == 0
        wait_until(started.exists, "the activity begins")
        process.send_signal(number)
        assert process.wait(20) == 0
    assert "has stopped" in said(url)
    status, history = asyncio.run(look(url, "w"))
    assert any(isinstance(event, TaskCompleted) for event in history), "it did not let the activity end"
    assert asyncio.run(workers_of(url)) == []
    assert status.runtime_status in (RuntimeStatus.COMPLETED, RuntimeStatus.RUNNING)


async def workers_of(url: str) -> list[Any]:
    async with TaskHub(url) as hub:
        return list(await hub.workers())


def test_a_second_signal_stops_it_at_once(durable: Command, url: str, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with worker(url) as process:
        durable("start", "long_work", "--id", "w", "--input", f'"{started}"', "--input", "60", "--url", url)
        wait_until(started.exists, "the activity begins")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: the worker stops" in said(url), "the first signal is taken")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
    assert asyncio.run(workers_of(url)) == []  # its partitions are free at once all the same
    status, history = asyncio.run(look(url, "w"))
    assert status.runtime_status is RuntimeStatus.RUNNING
    assert not any(isinstance(event, TaskCompleted) for event in history)


def test_reload_runs_the_new_code(durable: Command, url: str, tmp_path: Path) -> None:
    module = tmp_path / "shop_app.py"
    source = (
        "from durable import OrchestrationContext, TaskHub\n"
        "hub = TaskHub()\n"
        "@hub.orchestrator\n"
        "async def price(ctx: OrchestrationContext) -> int:\n"
        "    return {}\n"
    )
    module.write_text(source.format(1))
    with running("worker", "--reload", "shop_app:hub", url=url, directory=tmp_path) as process:
        wait_until(lambda: "runs hub" in said(url), "the first worker")
        assert durable("start", "price", "--wait", "--json", "--url", url).json["output"] == 1
        module.write_text("import nonsense_that_is_not_there\n")
        wait_until(lambda: "importing shop_app failed" in said(url), "the broken worker")
        module.write_text(source.format(2))
        wait_until(lambda: said(url).count("runs hub") == 2, "the second worker")
        assert durable("start", "price", "--wait", "--json", "--url", url).json["output"] == 2
        process.terminate()
        assert process.wait(20) == 0
    assert said(url).count("has stopped") == 2
    assert asyncio.run(workers_of(url)) == []


def read_all(terminal: int) -> str:
    """What comes from a terminal until its other side is closed; Linux calls that an input/output error."""
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError as error:
        assert error.errno == errno.EIO
    os.close(terminal)
    return shown.decode()


def on_terminal(url: str, *arguments: str, **more: str) -> tuple[int, str]:
    """Run a command at a pseudo-terminal; its exit code, and all that the terminal shows."""
    import pty  # not on Windows

    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "durable.cli", *arguments],
        cwd=ROOT,
        env=environment(url, TERM="xterm-256color", COLUMNS="120", **more),
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    text = read_all(terminal)
    return process.wait(20), text


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_a_table(store: str, no_color: bool) -> None:
    more = {"NO_COLOR": "1"} if no_color else {}
    code, text = on_terminal(store, "list", "--status", "failed", **more)
    assert (code, "STATUS" in text, "failed-1" in text, "\t" in text) == (0, True, True, False)
    assert ("\x1b[31mFailed" in text) is not no_color


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["show", "done-1", "--watch"], 0, "Hello Ann!"),
        (["show", "failed-1", "--wait"], 1, "not today"),
        (["history", "done-1"], 0, "TaskScheduled"),
        (["tree", "family-1"], 0, "\u2514\u2500\u2500 greet "),
        (["health"], 0, "connected"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_terminal_gets_the_rest_too(store: str, arguments: list[str], code: int, shown: str) -> None:
    found, text = on_terminal(store, *arguments, PYTHONIOENCODING="utf-8")
    assert (found, shown in text) == (code, True), text


def test_completion(store: str) -> None:
    more = {"_DURABLE_COMPLETE": "complete_bash", "COMP_WORDS": "durable he", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "durable.cli"]
    done = subprocess.run(command, env=environment(store, **more), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["health"]
