"""The example programs, run as a user runs them: in processes of their own, on new SQLite files, with a deadline."""

from __future__ import annotations

import asyncio
import os
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
from examples.fan_out_fan_in import verify

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
DEADLINE = 60.0

# The patterns, and lines that each must print. Those with a test of their own are below.
PATTERNS = {
    "aggregator_entity.py": [
        "  harbour: 3 readings, at most 21.0",
        "  ALARM: desert is hot: 41.5 degrees",
    ],
    "check_site.py": [
        "  GET /health/1: 200 OK",
        "  SiteReport(up=True, says='200 all is well')",
        "  SiteReport(up=False, says='no answer')",
    ],
    "course_recommendations.py": [
        "AI2 (advanced, 50 hours): Ann likes learning machines",
        "PY2 (advanced, 40 hours): Ann may take it",
    ],
    "device_provisioning.py": ["  camera-2: install firmware for camera-2, try 2", "  camera-2: active"],
    "eternal_cleanup.py": ["Stopped: 3 files removed, ['keep.txt'] left."],
    "fan_out_fan_in.py": [
        "  80 of 80 files, 31555000 bytes",
        "31555000 bytes in 80 files copied; 0 differ, 0 are missing.",
    ],
    "function_chaining.py": [
        "3. send the invoice over 17.00",
        "Result: invoice-7. Its history:",
        '  ExecutionCompleted    "invoice-7"',
    ],
    "http_api.py": ['200 ["chapter 1 on tea", "chapter 2 on tea", "chapter 3 on tea"]'],
    "human_interaction.py": ["  approved by the manager", "  rejected by the director"],
    "monitor.py": ["  ALERT: stuck job is not done after 1.5 s"],
    "queues.py": [
        "At most 2 at once, at most 1 for a customer.",
        "  the index has ['a', 'b', 'c']",
    ],
    "transfer.py": ["The sum is 400, and was 400 meanwhile."],
    "saga.py": [
        "  Result: paid",
        "  cancel flight-in-Tokyo",
        "  cancel car-in-Tokyo",
        "  cancel hotel-in-Tokyo",
        "  Result: not booked: 2900.00 is more than the card allows",
    ],
}


@asynccontextmanager
async def running(name: str, *arguments: str, directory: Path, url: str | None = None) -> AsyncIterator[Process]:
    """An example under way in ``directory``; killed if it has not ended by the end of the block or the deadline."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "NO_PROXY": "*"}  # loopback is asked directly
    environment["DURABLE_BLOCKED_TURN"] = "inf"  # a machine that stands still for a moment is not the example's fault
    environment.pop("DURABLE_URL", None)
    if url is not None:
        environment["DURABLE_URL"] = url
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output_of(name: str, *arguments: str, directory: Path, url: str | None = None) -> str:
    async with running(name, *arguments, directory=directory, url=url) as process:
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


def test_every_example_is_run_here_and_listed_in_the_docs() -> None:
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    own_tests = {"demo.py", "durable_timer.py", "fan_out.py", "hello.py", "order_service.py", "transactional_order.py"}
    assert examples == own_tests | PATTERNS.keys()
    page = (ROOT / "docs/examples.md").read_text("utf-8")
    assert [name for name in sorted(examples) if f"(../examples/{name})" not in page] == []


def missing_lines(name: str, output: str) -> list[str]:
    """The lines that ``name`` should have printed, in that order, and did not."""
    printed = iter(output.splitlines())
    return [line for line in PATTERNS[name] if line not in printed]


@pytest.mark.parametrize("name", PATTERNS)
async def test_a_pattern_on_sqlite(name: str, tmp_path: Path) -> None:
    output = await output_of(name, directory=tmp_path)
    assert missing_lines(name, output) == [], output
    assert files_in(tmp_path) == [f"{name.removesuffix('.py')}.db"]


@pytest.mark.mongodb
@pytest.mark.parametrize("name", PATTERNS)
async def test_a_pattern_on_the_url_of_the_environment(name: str, tmp_path: Path, mongodb_database_url: str) -> None:
    output = await output_of(name, directory=tmp_path, url=mongodb_database_url)
    assert missing_lines(name, output) == [], output
    assert files_in(tmp_path) == []


@pytest.mark.mongodb
async def test_orders_and_their_orchestrations_are_there_together(tmp_path: Path, mongodb_database_url: str) -> None:
    lines = (await output_of("transactional_order.py", directory=tmp_path, url=mongodb_database_url)).splitlines()
    assert lines[0] == "  no order: the customer has left"
    assert lines[-1] == "2 orders, and each has its orchestration; 5 cups are left."


async def test_a_backup_of_a_tree_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/a.txt").write_text("12345")
    (tmp_path / "tree/b.txt").write_text("123")
    output = await output_of("fan_out_fan_in.py", "tree", "backup", directory=tmp_path)
    assert missing_lines("fan_out_fan_in.py", output)  # it did not make one
    assert output.splitlines()[-1] == "8 bytes in 2 files copied; 0 differ, 0 are missing."
    tree, backup = tmp_path / "tree", tmp_path / "backup"
    assert (backup / "sub/a.txt").read_text() == "12345"
    assert verify(tree, backup, 8)
    assert not verify(tree, backup, 9)
    (backup / "b.txt").write_text("321")
    assert not verify(tree, backup, 8)
    (backup / "b.txt").unlink()
    assert not verify(tree, backup, 8)


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
