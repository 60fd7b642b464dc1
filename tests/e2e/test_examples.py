"""The example programs, run as a user runs them: in processes of their own, on new SQLite files, with a deadline."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from durable import RuntimeStatus, TaskHub
from durable.core.events import TaskCompleted, TaskScheduled
from examples.demo import KILLED_IN, STEPS, judge

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
DEADLINE = 60.0


@asynccontextmanager
async def running(name: str, *arguments: str, directory: Path) -> AsyncIterator[Process]:
    """An example under way in ``directory``; killed if it has not ended by the end of the block or the deadline."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=directory, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(DEADLINE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output_of(name: str, *arguments: str, directory: Path) -> str:
    async with running(name, *arguments, directory=directory) as process:
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{name}: exit status {process.returncode}\n{stdout.decode()}{stderr.decode()}"
    assert stderr == b""
    return stdout.decode()


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def lines_until(process: Process, beginning: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith(beginning):
        line = await process.stdout.readline()
        if not line:
            raise AssertionError(f"it ended before it printed {beginning!r}: {lines}")
        lines.append(line.decode())
    return lines


async def test_hello(tmp_path: Path) -> None:
    for _ in range(2):  # the second run finds the file of the first
        assert (
            await output_of("hello.py", directory=tmp_path) == "['Hello Tokyo!', 'Hello Seattle!', 'Hello London!']\n"
        )
    async with TaskHub(f"sqlite:///{tmp_path}/hello.db") as hub:
        assert [each.runtime_status async for each in hub.query()] == [RuntimeStatus.COMPLETED] * 2


async def test_fan_out(tmp_path: Path) -> None:
    lines = (await output_of("fan_out.py", directory=tmp_path)).splitlines()
    assert lines[-2:] == ["20 of 20 parts done, 25997 primes found", "There are 25997 primes below 300000."]
    progress = [int(line.split()[0]) for line in lines[:-1]]
    assert progress == sorted(set(progress))


async def test_a_reminder_survives_a_kill(tmp_path: Path) -> None:
    async with running("durable_timer.py", "2", "drink", "tea", directory=tmp_path) as process:
        before = await lines_until(process, "Waiting: 'drink tea' in 2 s")
        process.kill()
        assert process.stdout is not None
        before.append((await process.stdout.read()).decode())
    after = (await output_of("durable_timer.py", directory=tmp_path)).splitlines()
    assert "Reminder: drink tea" not in "".join(before)
    assert after[-2:] == ["Reminder: drink tea", "Nothing left to wait for."]
    assert await output_of("durable_timer.py", directory=tmp_path) == "Nothing left to wait for.\n"
    async with TaskHub(f"sqlite:///{tmp_path}/reminders.db") as hub:
        (reminder,) = [each.instance_id async for each in hub.query()]
        history: list[Any] = list(await hub.get(reminder).history())
    timers = [event for event in history if type(event).__name__.startswith("Timer")]
    assert [type(event).__name__ for event in timers] == ["TimerCreated", "TimerFired"]
    assert timers[1].timestamp >= timers[1].fire_at == timers[0].fire_at


async def test_demo(tmp_path: Path) -> None:
    output = await output_of("demo.py", directory=tmp_path)
    verdict = output.partition("What this showed")[2]
    claims = [line.split()[0] for line in verdict.splitlines()[2:] if line]
    assert claims == ["yes"] * 6
    assert f"killed with SIGKILL, in the middle of step {KILLED_IN}" in output
    assert "Recovery took" in output
    assert files_in(tmp_path) == []  # it works in a directory of its own


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ({}, 0),
        ({"twice": 1}, 1),  # a finished step ran again
        ({"result": []}, 1),
        ({"after": []}, 2),  # the history was lost
    ],
)
def test_the_demo_would_notice(fault: dict[str, Any], broken: int) -> None:
    first, second = 111, 222
    runs = Counter(
        [f"step {step} begins" for step in [*range(1, STEPS + 1), KILLED_IN, *([1] * fault.get("twice", 0))]]
    )
    scheduled = [TaskScheduled(0, step, "work", f"[{step}]") for step in range(1, STEPS + 1)]
    completed = [TaskCompleted(0, step, "null") for step in range(1, STEPS + 1)]
    after = [*scheduled, *completed]
    result = [f"step {step} by process {first if step < KILLED_IN else second}" for step in range(1, STEPS + 1)]
    claims = judge(first, second, runs, scheduled[:KILLED_IN], fault.get("after", after), fault.get("result", result))
    assert list(claims.values()).count(False) == broken
