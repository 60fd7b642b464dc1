"""A whole engine in one process and in virtual time: hubs that fail, die and quarrel over one store.

Rule of this file: all that happens follows from the :class:`Scenario`. Time, order, identifiers and the
length of slices are made from its seed, so that a failing scenario can be run again as it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from math import inf
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID

from pydantic import TypeAdapter

from durable import ActivityContext, BackendUnavailable, DurableError, InstanceExistsError, Settings, TaskHub
from durable.backend import WorkerInfo
from durable.testing.faults import Plan, SimulatedCrash, Step, random_plan
from durable.testing.memory_store import MemoryStore
from durable.testing.virtual_loop import VirtualLoop
from tests.chaos import workload
from tests.chaos.checker import Effect, findings, missing_instances, unexplained_results
from tests.chaos.replaying import replay_findings
from tests.chaos.stores import read_memory
from tests.chaos.workload import Job, job, outcome_findings
from tests.worker.rough_store import LONGEST, RoughBackend, Roughness, StrictBackend

CALM = 400.0
"""Virtual seconds after the storm by which everything must have ended."""

LEASE_TIME = 2.0

PROMPT = 10.0
"""Virtual seconds after the storm, or its own start, by which an instance ends where nothing goes wrong.

A wake-up that is lost is made up for by a scan of the store, which comes every 30 s: by that it is found here.
"""

_EPOCH = 1_700_000_000_000_000
_STARTED = 1  # when this process did, as a worker would tell
_MODULES_WITH_UUIDS = (
    "durable.worker.entities",
    "durable.worker.instances",
    "durable.worker.live",
    "durable.worker.partitions",
)
_MODULES_WITH_SLICES = ("durable.worker.instances", "durable.worker.loading")
_MODULES_WITH_PAUSES = ("durable.worker.claims", "durable.worker.retention")


@dataclass(frozen=True)
class Scenario:
    """What a simulation does. ``skew`` is by how many seconds the clocks of neighbours differ.

    ``storm`` is for how many virtual seconds faults are injected and instances are started. An operation takes up to
    ``turns`` turns of the event loop on its way to the store, and back.
    ``slowness``, ``duplicates`` and ``rivals`` are explained in ``rough_store.py``.
    """

    seed: int
    hubs: int = 2
    jobs: int = 8
    failures: float = 0.1
    crashes: float = 0.01
    steals: bool = False
    cache: int = 10_000
    settles_on_commit: bool = False
    slowness: float = 0.0
    skew: float = 0.0
    duplicates: float = 0.0
    rivals: float = 0.0
    storm: float = 12.0
    turns: int = 3

    @property
    def quiet(self) -> bool:
        """Whether nothing goes wrong: operations only take their turns of the event loop."""
        chances = (self.failures, self.crashes, self.slowness, self.skew, self.duplicates, self.rivals)
        return not any(chances) and not self.steals


@dataclass
class Outcome:
    """What became of a scenario: ``findings`` are broken promises, the rest says how rough it was.

    ``operations`` counts those on the store, ``faults`` what was done to them by kind; ``trace`` has of each its time,
    the place of its worker, its name, and its fault.
    """

    findings: list[str] = field(default_factory=list)
    crashes: int = 0
    acknowledged: int = 0
    executions: int = 0
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[float, int, str, str]] = field(default_factory=list)


@cache
def _adapter_of(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario from its first start to its judgement."""
    with everything_from(Random(scenario.seed)), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(Simulation(scenario).run())


@contextmanager
def everything_from(random: Random) -> Iterator[None]:
    """Make identifiers and slices from ``random``: else they would differ from run to run."""
    clock = [0.0]

    def uuid() -> UUID:
        return UUID(int=random.getrandbits(128), version=4)

    def perf_counter() -> float:
        clock[0] += random.choice((0.0, 0.0, 0.001, 0.004))
        return clock[0]

    def describe(now: int) -> WorkerInfo:
        return WorkerInfo(f"worker-{uuid().hex[:8]}", uuid().hex, os.getpid(), _STARTED, now)

    with ExitStack() as stack:
        for module in _MODULES_WITH_UUIDS:
            stack.enter_context(patch(f"{module}.uuid4", uuid))
        for module in _MODULES_WITH_SLICES:
            stack.enter_context(patch(f"{module}.perf_counter", perf_counter))
        for module in _MODULES_WITH_PAUSES:
            stack.enter_context(patch(f"{module}.uniform", random.uniform))
        stack.enter_context(patch("durable.random_ids.token_hex", lambda count: random.randbytes(count).hex()))
        stack.enter_context(patch("durable.worker.loading.version", lambda name: "of today"))  # reads files
        stack.enter_context(patch("durable.worker.partitions._describe_this_process", describe))
        # For speed: a file would be read at each heartbeat, and the same adapters made for each hub.
        stack.enter_context(patch("durable.worker.partitions._process_started", lambda pid: _STARTED))
        stack.enter_context(patch("durable.payloads.TypeAdapter", _adapter_of))
        yield


class _Alarms(logging.Handler):
    """Collects what live workers complain about; a dead one may say what it likes."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, SimulatedCrash):
            self._found.append(f"logged: {record.getMessage()} {error!r}")


class Simulation:
    """One run. A *place* is where a hub is kept running: when it dies, a new one is started.

    ``registry`` and :meth:`given` say what is run; a subclass that changes them judges for itself, too.
    """

    registry = workload.registry

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = Random(f"{scenario.seed}/simulation")
        self._store = MemoryStore()
        self._hubs: dict[int, TaskHub] = {}
        self._calm = False
        self._stopping = asyncio.Event()
        self._effects: list[Effect] = []
        self._jobs: dict[str, Job] = {}
        self._acknowledged: set[str] = set()
        self._outcome = Outcome()
        self._rough = Roughness(
            self._random,
            lambda: not self._calm,
            slowness=scenario.slowness,
            duplicates=scenario.duplicates,
            rivals=scenario.rivals,
            faults=self._outcome.faults,
        )

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_error)
        workload.record_effects_with(self._record_effect)
        log = logging.getLogger("durable.worker")
        alarms = _Alarms(self._outcome.findings)
        log.addHandler(alarms)
        log.propagate = False
        try:
            await self._storm()
            await self._judge()
        finally:
            log.removeHandler(alarms)
            log.propagate = True
        self._outcome.operations = self._rough.operations
        return self._outcome

    async def _storm(self) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(self._scenario.hubs):
                group.create_task(self._keep_hub(place))
            starts = [group.create_task(self._start(number)) for number in range(self._scenario.jobs)]
            thief = group.create_task(self._steal())
            await asyncio.sleep(self._scenario.storm)
            self._calm = True
            thief.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(CALM):
                    while not await self._at_rest(starts):
                        await asyncio.sleep(0.5)
            for start in starts:
                start.cancel()
            self._stopping.set()

    async def _at_rest(self, starts: Sequence[asyncio.Task[None]]) -> bool:
        """Whether everything has ended, and goes on to be so when all that is late has come."""
        for wait in (0.0, LONGEST if self._scenario.slowness else 0.0):
            await asyncio.sleep(wait)
            if not (all(start.done() for start in starts) and self._all_ended()):
                return False
        return True

    def _all_ended(self) -> bool:
        return all(record.status.is_terminal for record in self._store.records.values())

    def given(self, number: int) -> Job:
        """The job of that number."""
        return job(number + self._scenario.seed % 7, threads=False)

    def start_at(self, given: Job) -> datetime | None:
        """When a job is to begin; None for at once."""
        return None

    # --- hubs ----------------------------------------------------------------------------------

    async def _keep_hub(self, place: int) -> None:
        while not self._stopping.is_set():
            try:
                await self._run_hub(place)
            except (SimulatedCrash, BackendUnavailable):
                self._outcome.crashes += 1
            except Exception as error:
                self._outcome.findings.append(f"a worker ended by itself: {error!r}")
            await asyncio.sleep(self._random.uniform(0.0, 1.0))

    async def _run_hub(self, place: int) -> None:
        dead = asyncio.Event()
        inner = StrictBackend(self._store, self._rough, settles_on_commit=self._scenario.settles_on_commit)
        backend = RoughBackend(inner, self._plan(place), lambda operation: dead.set())
        hub = TaskHub(backend, settings=self._settings(), clock=self._clock(place))
        hub.include(self.registry)
        async with hub.worker():
            self._hubs[place] = hub
            try:
                await self._until_dead_or_stopping(dead)
                assert hub._worker is not None
                if dead.is_set():
                    await hub._worker.abandon()
                    raise SimulatedCrash("killed")
                if hub._worker.failure is not None:
                    self._outcome.findings.append(f"a worker gave up: {hub._worker.failure!r}")
            finally:
                backend.crashed = backend.crashed or dead.is_set()
                self._hubs.pop(place, None)

    async def _until_dead_or_stopping(self, dead: asyncio.Event) -> None:
        """A life ends at a store operation (the plan says so), at any other moment, or with the simulation."""
        crashes = self._scenario.crashes
        life = self._random.expovariate(crashes * 10) if crashes and not self._calm else None
        waits = [asyncio.ensure_future(event.wait()) for event in (dead, self._stopping)]
        await asyncio.wait(waits, timeout=life, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._stopping.is_set():
            self._outcome.faults["crash elsewhere"] += not dead.is_set()
            dead.set()

    def _plan(self, place: int) -> Plan:
        scenario, loop = self._scenario, asyncio.get_running_loop()
        seed = self._random.getrandbits(32)
        stormy = random_plan(seed, failures=scenario.failures, crashes=scenario.crashes, max_turns=scenario.turns)

        def plan(operation: str) -> Step:
            step = Step() if self._calm else stormy(operation)
            self._outcome.trace.append((loop.time(), place, operation, step.fault.value))
            return self._rough.asked(operation, step)

        return plan

    def _settings(self) -> Settings:
        return Settings(
            partitions=4,
            lease_time=LEASE_TIME,
            max_deliveries=10_000,
            cache_instances=self._scenario.cache,
            drain_time=5.0,
            start_timeout=5.0,
            blocked_turn=inf,
        )

    def _clock(self, place: int) -> Callable[[], int]:
        loop = asyncio.get_running_loop()
        ahead = int(place * self._scenario.skew * 1_000_000)
        return lambda: _EPOCH + ahead + round(loop.time() * 1_000_000)

    async def _steal(self) -> None:
        """Give leases to other workers behind their owners' backs: two work on the same instances for a while."""
        while self._scenario.steals:
            await asyncio.sleep(self._random.uniform(0.05, 1.0))
            workers = sorted(self._store.workers)
            held = [lease for _, lease in sorted(self._store.leases.items())]
            if workers and held:
                lease = self._random.choice(held)
                self._store.leases[lease.partition] = replace(lease, owner=self._random.choice(workers))
                self._outcome.faults["lease stolen"] += 1

    # --- starts --------------------------------------------------------------------------------

    async def _start(self, number: int) -> None:
        """Start a job through any hub, again and again until it is confirmed; some callers give up instead."""
        name, given = f"job-{number}", self.given(number)
        await asyncio.sleep(self._random.uniform(0.0, self._scenario.storm / 2))
        self._jobs[name] = given
        while name not in self._acknowledged:
            hubs = [hub for _, hub in sorted(self._hubs.items())]
            if hubs:
                try:
                    hub, start_at = self._random.choice(hubs), self.start_at(given)
                    await hub.start(given.name, *given.args, instance_id=name, start_at=start_at)
                except InstanceExistsError:
                    self._acknowledged.add(name)  # an attempt of which no answer came back
                except (DurableError, SimulatedCrash):
                    if self._random.random() < 0.2:
                        return await asyncio.sleep(2 * LONGEST)  # what has failed may still come to be
                else:
                    self._acknowledged.add(name)
            await asyncio.sleep(0.5)

    def _record_effect(self, context: ActivityContext) -> None:
        self._effects.append((context.instance_id, context.execution_id, context.task_id, context.attempt))

    # --- judgement -----------------------------------------------------------------------------

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, SimulatedCrash):
            self._outcome.findings.append(f"the loop reported: {context.get('message')} {error!r}")

    def late(self) -> list[str]:
        """What ended later than anything should where nothing goes wrong."""
        if not self._scenario.quiet:
            return []
        storm = _EPOCH + round(self._scenario.storm * 1_000_000)
        waited = {
            record.instance_id: (record.completed_at - max(record.created_at, storm)) / 1_000_000
            for record in self._store.records.values()
            if record.completed_at is not None
        }
        return [f"{name} ended {seconds:g} s late" for name, seconds in waited.items() if seconds > PROMPT]

    async def _judge(self) -> None:
        outcome = self._outcome
        outcome.findings += self.late()
        instances = read_memory(self._store)
        outcome.findings += missing_instances(self._acknowledged, instances)
        outcome.findings += findings(instances)
        outcome.findings += unexplained_results(instances, self._effects)
        outcome.findings += replay_findings(instances, workload.registry)
        outcome.findings += outcome_findings(instances, self._jobs)
        outcome.acknowledged = len(self._acknowledged)
        outcome.executions = len(self._effects)
