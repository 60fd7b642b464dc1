"""Activity queues served by several worker processes: whatever they do at once, the limits hold; and one may die."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Settings, TaskHub
from tests.chaos.queue_app import registry
from tests.e2e.waiting import until

pytestmark = pytest.mark.slow

LEASE = 4.0
LONG_LEASE = 12.0
"""For what a claim that expires would change: a machine may stand still for seconds."""
COMMON = "few,keyed,paced,modest"
_ROOT = Path(__file__).parents[2]


class Workers:
    """The worker processes of a test on one store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, queues: str, lease_time: float = LEASE) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.queue_app", self.url, str(self.folder), str(lease_time), queues]
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """What the activities logged, in the order in which it happened."""
        found = [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]
        return sorted(found, key=lambda line: float(line["at"]))


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    sqlite = f"sqlite:///{tmp_path / 'hub.db'}?timeout=30"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue("mongodb_database_url")
    workers = Workers(url, tmp_path)
    yield workers
    workers.end()


def hub_of(workers: Workers) -> TaskHub:
    hub = TaskHub(workers.url, settings=Settings(partitions=8, start_timeout=30.0))
    hub.include(registry)
    return hub


def at_once(lines: list[dict[str, Any]], group: Callable[[dict[str, Any]], str]) -> dict[str, int]:
    """How many ran at once at most, by group."""
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for line in lines:
        now[group(line)] += 1 if line["what"] == "begin" else -1
        most[group(line)] = max(most[group(line)], now[group(line)])
    return most


@pytest.mark.timeout(180)
async def test_limits_hold_across_processes(workers: Workers) -> None:
    for queues in (COMMON, COMMON, f"{COMMON},special"):
        workers.start(queues, LONG_LEASE)
    async with hub_of(workers) as hub:
        await until(hub.workers, lambda found: len(found) == 3, 60)
        sizes = {"few": 30, "keyed": 24, "paced": 30, "modest": 30, "special": 6}
        handles = [await hub.start("spread", queue, size) for queue, size in sizes.items()]
        pids = {queue: set(await handle.result(90)) for queue, handle in zip(sizes, handles, strict=True)}
    by_queue: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in workers.lines():
        by_queue[line["queue"]].append(line)
    assert all(len(by_queue[queue]) >= 2 * size for queue, size in sizes.items())
    assert at_once(by_queue["few"], lambda line: "all")["all"] <= 3
    assert set(at_once(by_queue["keyed"], lambda line: str(line["key"])).values()) == {1}
    assert max(at_once(by_queue["modest"], lambda line: str(line["pid"])).values()) <= 2
    assert pids["special"] == {workers.processes[-1].pid}
    assert pids["modest"] <= {process.pid for process in workers.processes}
    assert len(pids["modest"]) > 1
    begins = [line["at"] for line in by_queue["paced"] if line["what"] == "begin"]
    assert begins[-1] - begins[0] > 0.7  # it takes 1.4 s from claim to claim; each may begin a little later


@pytest.mark.timeout(180)
async def test_the_order_holds_across_processes(workers: Workers) -> None:
    workers.start("special")
    async with hub_of(workers) as hub:
        first = await hub.start("ranked", [0])
        await until(first.history, lambda events: len(events) > 3)
        await asyncio.sleep(1.2)  # it ages: by six steps of priority
        second = await hub.start("ranked", [1, 3, 2, 3, 1, 2, -1])
        await until(second.history, lambda events: len(events) > 8)
        await (await hub.start("spread", "special", 1)).result(60)  # offered after them, by the same worker
        for _ in range(2):
            workers.start("line")
        await first.result(60)
        await second.result(60)
    begins = [int(line["key"]) for line in workers.lines() if (line["what"], line["queue"]) == ("begin", "line")]
    assert begins == [0, 3, 3, 2, 2, 1, 1, -1]


@pytest.mark.timeout(120)
async def test_of_debounced_starts_the_last_one_runs_in_another_process(workers: Workers) -> None:
    workers.start("special")
    delay = timedelta(seconds=2)
    async with hub_of(workers) as hub, hub_of(workers) as other:
        for number in range(8):
            client = (hub, other)[number % 2]
            handle = await client.start("echo", str(number), instance_id="e", debounce=delay)
        assert await handle.result(60) == "7"


@pytest.mark.timeout(120)
async def test_what_ran_in_a_worker_that_was_killed_runs_again_elsewhere(workers: Workers) -> None:
    first = workers.start("few")
    async with hub_of(workers) as hub:
        handle = await hub.start("held", "x")
        await until(lambda: (workers.folder / f"x.{first.pid}").exists(), bool)
        workers.start("few")
        first.kill()
        assert await handle.result(60) == 2
