"""Several worker processes on one MongoDB: they share the work, come, go, die, and lose the network."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pymongo import MongoClient

from durable import Settings, TaskHub
from tests.chaos.cut_off import line_to
from tests.chaos.scale_app import PARTITIONS, registry

pytestmark = [pytest.mark.mongodb, pytest.mark.slow]

LEASE = 3.0
SOON = 20.0  # seconds: processes start slowly on a busy machine
_ROOT = Path(__file__).parents[2]


class Workers:
    """The worker processes of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, url: str, place: str = "near", lease: float = LEASE) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.scale_app", url, str(lease), place, str(self.folder)]
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.end()


class Leases:
    """Who owns how many partitions, read straight from the store."""

    def __init__(self, url: str) -> None:
        self._client = MongoClient[dict[str, Any]](url)
        self._partitions = self._client.get_default_database()["default.partitions"]

    def owned(self) -> Counter[int]:
        """Partitions by the pid of their owner."""
        owners = [found["owner"] for found in self._partitions.find() if found["owner"] is not None]
        return Counter(int(owner.split("-")[-2]) for owner in owners)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def leases(mongodb_database_url: str) -> Iterator[Leases]:
    leases = Leases(mongodb_database_url)
    yield leases
    leases.close()


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for ``condition``; how long it took."""
    began = monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)
    return monotonic() - began


def shared_by(leases: Leases, processes: list[subprocess.Popen[bytes]]) -> Callable[[], bool]:
    """Whether exactly these processes own all partitions, in even shares."""
    pids = {process.pid for process in processes}

    def look() -> bool:
        owned = leases.owned()
        shares = set(owned.values())
        return owned.keys() == pids and owned.total() == PARTITIONS and max(shares) - min(shares) <= 1

    return look


@pytest.mark.timeout(180)
async def test_four_workers_share_the_work_and_take_over_from_those_who_leave(
    mongodb_database_url: str, workers: Workers, leases: Leases
) -> None:
    hub = TaskHub(mongodb_database_url, settings=Settings(partitions=PARTITIONS))
    hub.include(registry)
    first = workers.start(mongodb_database_url)
    await until(shared_by(leases, [first]), SOON)
    others = [workers.start(mongodb_database_url, "far") for _ in range(3)]
    await until(shared_by(leases, [first, *others]), SOON)

    async with hub:
        met = await (await hub.start("tree", 40, instance_id="spread")).result(60)
        pids = {process.pid for process in workers.processes}
        assert {activity for activity, _ in met} == pids
        assert {entity for _, entity in met} == pids

        leaver = others.pop()
        leaver.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(leaver.wait, 30) == 0
        assert leaver.pid not in leases.owned()  # given up before it ended
        await until(shared_by(leases, [first, *others]), 2 * LEASE)

        victim = others.pop()
        victim.kill()
        await until(shared_by(leases, [first, *others]), 2 * LEASE + 1)
        met = await (await hub.start("tree", 20, instance_id="after")).result(60)
        assert {activity for activity, _ in met} == {first.pid, others[0].pid}


@pytest.mark.timeout(180)
async def test_a_worker_that_was_cut_off_from_the_store_comes_back_and_its_stale_writes_lose(
    mongodb_database_url: str, workers: Workers, leases: Leases
) -> None:
    hub = TaskHub(mongodb_database_url, settings=Settings(partitions=PARTITIONS))
    hub.include(registry)
    async with hub, line_to(mongodb_database_url) as (line, url):
        stale = workers.start(url, "far")
        await until(shared_by(leases, [stale]), SOON)
        handle = await hub.start("held", "x", instance_id="one")
        await until((workers.folder / f"x.{stale.pid}.running").exists, SOON)

        line.cut()
        fresh = workers.start(mongodb_database_url, "far")
        await until((workers.folder / f"x.{fresh.pid}.running").exists, SOON + 2 * LEASE)
        (workers.folder / f"x.{stale.pid}.release").touch()  # its activity ends, and it does not know what it lost
        (workers.folder / f"x.{fresh.pid}.release").touch()
        result = await handle.result(60)
        assert result == [fresh.pid, fresh.pid]
        history = await handle.history()
        line.restore()
        await until(shared_by(leases, [stale, fresh]), SOON)  # it works again, and its turn of then was refused
        met = await (await hub.start("tree", 20, instance_id="after")).result(60)
        assert {activity for activity, _ in met} == {stale.pid, fresh.pid}
        assert await handle.history() == history
    assert "Traceback" not in (workers.folder / "workers.log").read_text()
