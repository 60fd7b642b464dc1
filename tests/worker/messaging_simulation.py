"""The simulation of instances that talk to each other, and of clients that talk to them.

Rule of this file: as in ``simulation.py``. A client repeats what was not confirmed, through whichever hub is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from unittest.mock import patch

from durable import DurableError, InstanceFinishedError, InstanceHandle, Settings
from durable.core.state import RuntimeStatus
from durable.testing.faults import SimulatedCrash
from durable.testing.virtual_loop import VirtualLoop
from tests.chaos import pattern_workload
from tests.chaos.checker import missing_instances
from tests.chaos.messaging_judge import each_execution
from tests.chaos.messaging_workload import messaging_job
from tests.chaos.pattern_judge import pattern_findings
from tests.chaos.pattern_workload import pattern_job
from tests.chaos.replaying import replay_findings
from tests.chaos.stores import read_memory
from tests.chaos.workload import Job
from tests.worker.simulation import Outcome, Scenario, Simulation, everything_from

AUDIT = "the audit"
_MUCH_LATER = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class MessagingScenario(Scenario):
    """``roll`` is after how many rows an entity goes on in a new execution, ``keep`` how many former ones are kept.

    ``disturbances`` is how likely an instance is to be ended, or suspended for a while, from outside. ``ahead`` is how
    many messages of one instance are read ahead. With ``patterns`` they are sagas, retries, queues, batches and
    generations.
    """

    roll: int = 2000
    keep: int = 1000
    disturbances: float = 0.2
    ahead: int = 5000
    patterns: bool = False


def simulate_messaging(scenario: MessagingScenario) -> Outcome:
    """Run a scenario from its first start to its judgement."""
    with (
        everything_from(Random(scenario.seed)),
        patch("durable.worker.entities.ROLL_AT", scenario.roll),
        patch("durable.worker.mailboxes.MAX_MAILBOX", scenario.ahead),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        return runner.run(MessagingSimulation(scenario).run())


class MessagingSimulation(Simulation):
    """One run."""

    registry = pattern_workload.registry

    def __init__(self, scenario: MessagingScenario) -> None:
        super().__init__(scenario)
        self._messaging = scenario
        self._disturbed: dict[str, str] = {}

    def given(self, number: int) -> Job:
        if self._messaging.patterns:
            return pattern_job(number + self._scenario.seed % 6)
        return messaging_job(number + self._scenario.seed % 9)

    def start_at(self, given: Job) -> datetime | None:
        """Half of those that never end by themselves are not to begin, either."""
        return _MUCH_LATER if given.name == "hopeless" and self._random.random() < 0.5 else None

    def _settings(self) -> Settings:
        return replace(super()._settings(), keep_executions=self._messaging.keep)

    def _all_ended(self) -> bool:
        """Whether every instance has ended, and no message waits."""
        records = self._store.records.values()
        ended = all(r.status.is_terminal or (r.instance_id.startswith("@") and r.due_at is None) for r in records)
        return ended and not self._store.inbox

    # --- clients -------------------------------------------------------------------------------

    async def _start(self, number: int) -> None:
        """Start a job, and do with it what a client does."""
        async with asyncio.TaskGroup() as group:
            if number == 0:
                group.create_task(self._audit())
            starting = group.create_task(super()._start(number))
            name, given = f"job-{number}", self.given(number)
            while name not in self._store.records:
                if starting.done() and self._calm:
                    return  # given up, and it did not come to be
                await asyncio.sleep(0.1)
            if given.name == "keyed":
                for key in range(given.args[0]):
                    group.create_task(self._raise_key(name, key))
            if given.name == "hopeless":
                group.create_task(self._end(name, "Terminated", self._scenario.storm))
            elif given.name == "patient":
                group.create_task(self._end(name, "Canceled", self._scenario.storm))
            elif given.name == "transfer" and self._random.random() < self._messaging.disturbances:
                how = self._random.choice(("Terminated", "Canceled"))
                group.create_task(self._end(name, how, 1.0))
            elif given.name == "trip" and self._random.random() < self._messaging.disturbances:
                group.create_task(self._end(name, "Canceled", 1.0))
            if self._random.random() < self._messaging.disturbances:
                group.create_task(self._pause(name))

    async def _raise_key(self, name: str, key: int) -> None:
        """Raise an event until it is confirmed, now and then once more."""
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        for _ in range(self._random.choice((1, 1, 2))):
            await self._insist(name, lambda handle: handle.raise_event("key", key, idempotency_key=str(key)))
            await asyncio.sleep(self._random.uniform(0.0, 0.5))

    async def _end(self, name: str, how: str, latest: float) -> None:
        """End an instance from outside, at a random moment; the one that must be ended again and again."""
        await asyncio.sleep(self._random.uniform(0.0, latest))
        self._disturbed[name] = how
        while not self._store.records[name].status.is_terminal:
            if how == "Terminated":
                await self._insist(name, lambda handle: handle.raise_event("unheard"))  # for which it may be looked up
                await self._insist(name, lambda handle: handle.terminate("enough"))
            else:
                await self._insist(name, lambda handle: handle.cancel("enough"))
            await asyncio.sleep(30.0)

    async def _pause(self, name: str) -> None:
        """Suspend an instance and resume it, until it is seen not to be suspended."""
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        await self._insist(name, lambda handle: handle.suspend("a moment"))
        await asyncio.sleep(self._random.uniform(0.0, 3.0))
        await self._insist(name, lambda handle: handle.resume("go on"))
        while not self._store.records[name].status.is_terminal:
            # The clocks of two clients differ: a resume may come before the suspend.
            await asyncio.sleep(20.0)
            if self._store.records[name].status is RuntimeStatus.SUSPENDED:
                await self._insist(name, lambda handle: handle.resume("go on"))

    async def _insist(self, name: str, act: Callable[[InstanceHandle[object]], Awaitable[None]]) -> None:
        """Do something to an instance until it is confirmed, or the instance has ended."""
        while True:
            hubs = [hub for _, hub in sorted(self._hubs.items())]
            if hubs:
                try:
                    await act(self._random.choice(hubs).get(name))
                except InstanceFinishedError:
                    return
                except (DurableError, SimulatedCrash):
                    pass
                else:
                    return
            await asyncio.sleep(0.3)

    async def _audit(self) -> None:
        """When everything has ended, no account is locked."""
        while not self._calm or not self._all_ended():
            await asyncio.sleep(1.0)
        self._jobs[AUDIT] = Job("audit", ())
        while AUDIT not in self._store.records:
            for _, hub in sorted(self._hubs.items()):
                with suppress(DurableError, SimulatedCrash):
                    await hub.start("audit", instance_id=AUDIT)
            await asyncio.sleep(0.3)

    # --- judgement -----------------------------------------------------------------------------

    async def _judge(self) -> None:
        outcome = self._outcome
        outcome.findings += self.late()
        instances = read_memory(self._store)
        outcome.findings += missing_instances({*self._acknowledged, AUDIT}, instances)
        outcome.findings += pattern_findings(instances, self._jobs, self._disturbed, keep=self._messaging.keep)
        outcome.findings += replay_findings(each_execution(instances), self.registry)
        outcome.findings += [f"{name}: messages are left: {list(left)}" for name, left in self._store.inbox.items()]
        outcome.acknowledged = len(self._acknowledged)
        outcome.executions = len(self._effects)
