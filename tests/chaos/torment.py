"""Worker processes, and what is done to them: killed, frozen, stopped, replaced.

Rule of this file: each place for a worker is kept filled, and how a worker ends follows from the seed. How far it
came by then does not: processes run as they are scheduled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic

from tests.chaos.chaos_app import STORE_LOST
from tests.chaos.report import Report

_ROOT = Path(__file__).parents[2]
_PREMATURE = 0.1  # the share of the workers that are killed before they have come up, perhaps
_PROGRESS = 3  # turns
_FAR = 0.3  # the share of the workers that look like those of another machine
_LOOPS = ("asyncio", "uvloop")


_FATES = ("at work",) * 6 + ("stale", "frozen", "stop")


class Fates:
    """How workers end: each fate comes round as often as it is there, in an order that follows from the seed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._left: list[str] = []

    def draw(self) -> str:
        """The next one."""
        if not self._left:
            self._left = self._random.sample(_FATES, len(_FATES))
        return self._left.pop()


@dataclass(frozen=True)
class Workers:
    """Starts and ends worker processes, and counts in ``report`` what it did to them.

    ``directory`` has their log and the log of effects; the lease time is in seconds. ``revisions`` is how many turns
    were committed by all.
    """

    directory: Path
    report: Report
    lease_time: float
    keep: int
    revisions: Callable[[], int]

    def spawn(self, url: str, place: str, loop: str = "auto") -> subprocess.Popen[bytes]:
        """A new process on the store at ``url``; ``place`` is near or far, ``loop`` a value of DURABLE_EVENT_LOOP."""
        arguments = [url, str(self.directory / "effects.log"), str(self.lease_time), place, str(self.keep)]
        with (self.directory / "workers.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.chaos.chaos_app", *arguments]
            environment = os.environ | {"DURABLE_EVENT_LOOP": loop}
            return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)

    async def torment(self, url: str, random: Random, fates: Fates, raging: Callable[[], bool]) -> None:
        """Keep one place filled with one process after another."""
        while raging():
            place = "far" if random.random() < _FAR else "near"
            worker = self.spawn(url, place, random.choice(_LOOPS))
            try:
                await self._let_live(worker, random)
                await self._end(worker, fates.draw())
            finally:
                worker.kill()
                worker.wait()

    async def _let_live(self, worker: subprocess.Popen[bytes], random: Random) -> None:
        if random.random() < _PREMATURE:
            await asyncio.sleep(random.uniform(0.0, 1.0))
            return
        # On an idle machine as on a busy one: workers get something done before one of them dies.
        up = self.directory / f"up.{worker.pid}"
        await _wait_for(lambda: up.exists() or worker.poll() is not None, 30.0)
        goal = self.revisions() + _PROGRESS
        await _wait_for(lambda: self.revisions() >= goal or worker.poll() is not None, 10.0)
        await asyncio.sleep(random.uniform(0.0, 2.0))

    async def stop(self, worker: subprocess.Popen[bytes]) -> None:
        """Ask it to end. It is a finding if it does not, or in another way than it should."""
        worker.terminate()
        ended = await _wait_for(lambda: worker.poll() is not None, 30.0)
        # SIGTERM itself ends a worker that is not up yet.
        right = ended and worker.returncode in (0, -signal.SIGTERM, STORE_LOST)
        self._expect(right, f"a graceful stop ended with {worker.poll()}")

    async def _end(self, worker: subprocess.Popen[bytes], fate: str) -> None:
        if worker.poll() == STORE_LOST:
            self.report.disturbances["workers without a store"] += 1
            return
        self._expect(worker.poll() is None, f"a worker ended by itself with code {worker.poll()}")
        if fate == "stop":
            self.report.disturbances["graceful stops"] += 1
            await self.stop(worker)
            return
        if fate != "at work":
            # Its leases run out while it sleeps; it may wake as a stale owner and go on working.
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.5 * self.lease_time)
        if fate == "stale":
            worker.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        worker.kill()
        self.report.deaths[fate] += 1

    def _expect(self, right: bool, finding: str) -> None:
        if not right:
            self.report.findings.append(finding)


async def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
