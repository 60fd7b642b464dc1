"""The clients of a chaos run: they start instances, raise events, signal, cancel, suspend, and keep a ledger.

Rule of this file: what is confirmed is written down as confirmed, what is not as in doubt; nothing is judged here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from durable import BackendUnavailable, InstanceExistsError, InstanceFinishedError, InstanceHandle, TaskHub
from tests.chaos import messaging_workload, workload
from tests.chaos.pattern_workload import any_job
from tests.chaos.workload import Job

SIGNALLED = "clients"
"""The key of the counter to which clients signal."""

_NEED_A_CLIENT = ("keyed", "hopeless", "patient")
_DISTURBED, _PAUSED = 0.25, 0.15  # shares of the jobs that bear it


@dataclass
class Ledger:
    """What clients did. ``disturbed`` says how instances were ended from outside, or may have been."""

    jobs: dict[str, Job] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    disturbed: dict[str, str] = field(default_factory=dict)
    signals: list[str] = field(default_factory=list)
    doubtful_signals: list[str] = field(default_factory=list)
    confirmed: Counter[str] = field(default_factory=Counter)
    doubtful: Counter[str] = field(default_factory=Counter)


class Clients:
    """All clients of a run. They start jobs while ``raging``, and follow each to its end.

    ``crowded`` is asked, with the number of those that were started, whether no more are to be for now. They start
    the ``least`` number even when nothing rages any more.
    """

    def __init__(
        self, hub: TaskHub, seed: int, raging: Callable[[], bool], crowded: Callable[[int], bool], least: int
    ) -> None:
        self.ledger = Ledger()
        self._hub = hub
        self._seed = seed
        self._raging = raging
        self._crowded = crowded
        self._least = least

    async def run(self) -> None:
        """Until all is started and told."""
        async with asyncio.TaskGroup() as lives:
            signalling = lives.create_task(self._keep_signalling())
            random, number = Random(f"{self._seed}/starts"), 0
            while self._raging() or number < self._least:
                if not self._raging() or not self._crowded(number):
                    lives.create_task(self._live(f"job-{number}", any_job(number)))
                    number += 1
                await asyncio.sleep(random.uniform(0.0, 0.2))
            await signalling

    async def _live(self, name: str, given: Job) -> None:
        """Start a job, and do with it what a client does."""
        random = Random(f"{self._seed}/{name}")
        self.ledger.jobs[name] = given
        if not await self._start(name, given, give_up=given.name not in _NEED_A_CLIENT and random.random() < 0.5):
            return
        unlucky = random.random()
        match given.name:
            case "keyed":
                await self._raise_keys(name, given.args[0], random)
            case "hopeless":
                await self._end(name, "Terminated", random)
            case "patient":
                await self._end(name, "Canceled", random)
            case "transfer" if unlucky < _DISTURBED:
                await self._end(name, random.choice(("Canceled", "Terminated")), random)
            case "trip" if unlucky < _DISTURBED:
                await self._end(name, "Canceled", random)
            case kind if unlucky < _PAUSED and kind not in workload.registry.orchestrators:
                await self._pause(name, random)

    async def _start(self, name: str, given: Job, *, give_up: bool) -> bool:
        """Whether the start is confirmed; it is repeated unless its caller gives up."""
        while True:
            try:
                await self._hub.start(given.name, *given.args, instance_id=name)
            except BackendUnavailable:
                self.ledger.doubtful["start"] += 1
                if give_up:
                    return False
                await asyncio.sleep(0.2)
                continue
            except InstanceExistsError:
                pass  # an attempt of which no answer came back
            self.ledger.acknowledged.add(name)
            self.ledger.confirmed["start"] += 1
            return True

    async def audit(self, name: str) -> None:
        """Start the orchestration that looks at all accounts, for which it must lock each."""
        self.ledger.jobs[name] = Job("audit", ())
        await self._start(name, self.ledger.jobs[name], give_up=False)

    async def _raise_keys(self, name: str, count: int, random: Random) -> None:
        """Raise events until they are confirmed, some of them twice."""
        for key in [*range(count), *random.sample(range(count), 2)]:
            await asyncio.sleep(random.uniform(0.0, 0.5))

            async def act(handle: InstanceHandle[Any], key: int = key) -> None:
                await handle.raise_event("key", key, idempotency_key=str(key))

            await self._insist("event", name, act)

    async def _end(self, name: str, how: str, random: Random) -> None:
        """End an instance from outside. It is asked until that is confirmed, and then not again."""
        await asyncio.sleep(random.uniform(0.0, 2.0))
        self.ledger.disturbed[name] = how
        if how == "Terminated":
            await self._insist("terminate", name, lambda handle: handle.terminate("enough"))
        else:
            await self._insist("cancel", name, lambda handle: handle.cancel("enough"))

    async def _pause(self, name: str, random: Random) -> None:
        """Suspend an instance and resume it."""
        await asyncio.sleep(random.uniform(0.0, 1.0))
        doubts = await self._insist("suspend", name, lambda handle: handle.suspend("a moment"))
        await asyncio.sleep(random.uniform(0.0, 3.0))
        await self._insist("resume", name, lambda handle: handle.resume("go on"))
        while doubts and not await self._has_ended(name):
            # A suspend that was in doubt is another message, and may come after the resume.
            await asyncio.sleep(1.0)
            await self._insist("resume", name, lambda handle: handle.resume("go on"))

    async def _has_ended(self, name: str) -> bool:
        try:
            return (await self._hub.get(name).status()).runtime_status.is_terminal
        except BackendUnavailable:
            return False

    async def _insist(self, kind: str, name: str, act: Callable[[InstanceHandle[Any]], Awaitable[None]]) -> int:
        """Do something until it is confirmed, or the instance has ended; how often it was in doubt."""
        doubts = 0
        while True:
            try:
                await act(self._hub.get(name))
            except BackendUnavailable:
                doubts += 1
                self.ledger.doubtful[kind] += 1
                await asyncio.sleep(0.2)
            except InstanceFinishedError:
                return doubts
            else:
                self.ledger.confirmed[kind] += 1
                return doubts

    async def _keep_signalling(self) -> None:
        """Signal to one entity, one after the other. None is repeated: it would be another signal."""
        random, number = Random(f"{self._seed}/signals"), 0
        while self._raging():
            entry = f"signal-{number}"
            try:
                await self._hub.signal_entity(messaging_workload.Counter.add, SIGNALLED, entry)
            except BackendUnavailable:
                self.ledger.doubtful_signals.append(entry)
                self.ledger.doubtful["signal"] += 1
            else:
                self.ledger.signals.append(entry)
                self.ledger.confirmed["signal"] += 1
            number += 1
            await asyncio.sleep(random.uniform(0.0, 0.5))
