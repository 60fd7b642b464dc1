"""The chaos run: starts instances while it kills, freezes and stops the workers that run them, then judges."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from durable import BackendUnavailable, InstanceExistsError, InstanceFinishedError, TaskHub
from tests.chaos import messaging_workload, workload
from tests.chaos.chaos_app import settings
from tests.chaos.checker import (
    Effect,
    StoredInstance,
    executions,
    findings,
    missing_instances,
    unexplained_results,
)
from tests.chaos.messaging_judge import each_execution, messaging_findings
from tests.chaos.messaging_workload import messaging_job
from tests.chaos.replaying import replay_findings
from tests.chaos.stores import read_progress, read_store
from tests.chaos.workload import Job, job, outcome_findings

LEASE_TIME = 1.5
WORKERS = 3
AUDIT = "audit"
_ROOT = Path(__file__).parents[2]
_ALARMS = ("cannot go on", "is parked", "never retrieved", "Traceback")


@dataclass
class Report:
    """What a run did to the workers, and what it found."""

    kills: int = 0
    freezes: int = 0
    stops: int = 0
    acknowledged: dict[str, Job] = field(default_factory=dict)
    in_doubt: dict[str, Job] = field(default_factory=dict)
    recoveries: int = 0
    executions: int = 0
    repeated: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.freezes} freezes, {self.stops} graceful stops; "
            f"{len(self.acknowledged)} instances acknowledged, {len(self.in_doubt)} in doubt; "
            f"{self.recoveries} recoveries; {self.executions} activity executions, {self.repeated} of them repeats; "
            f"{self.seconds:.0f} s; {len(self.findings)} findings"
        )


class ChaosRun:
    """One run on the store at ``url``; what its workers log is kept in ``directory``."""

    def __init__(self, url: str, directory: Path, *, seed: int, kills: int, patience: float) -> None:
        self.report = Report()
        self._url = url
        self._effects = directory / "effects.log"
        self._log = directory / "workers.log"
        self._seed = seed
        self._kills = kills
        self._patience = patience
        self._effects.touch()

    async def run(self) -> Report:
        """Torment the workers, let others finish the work, and judge."""
        began = monotonic()
        hub = TaskHub(self._url, settings=settings(LEASE_TIME))
        hub.include(messaging_workload.registry)
        async with hub:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_starting(hub))
                for slot in range(WORKERS):
                    group.create_task(self._torment(Random(f"{self._seed}/{slot}")))
            await self._let_finish(hub)
        self._judge(read_store(self._url))
        self.report.seconds = monotonic() - began
        return self.report

    async def _keep_starting(self, hub: TaskHub) -> None:
        random = Random(f"{self._seed}/starts")
        number = 0
        async with asyncio.TaskGroup() as events:
            while self.report.kills < self._kills:
                name, given = f"job-{number}", _job(number)
                self.report.in_doubt[name] = given
                with suppress(BackendUnavailable, InstanceExistsError):
                    await hub.start(given.name, *given.args, instance_id=name)
                    self.report.acknowledged[name] = self.report.in_doubt.pop(name)
                if given.name == "keyed":
                    events.create_task(self._raise_keys(hub, name, given.args[0], Random(f"{self._seed}/{name}")))
                number += 1
                await asyncio.sleep(random.uniform(0.0, 0.2))

    async def _raise_keys(self, hub: TaskHub, name: str, count: int, random: Random) -> None:
        """Raise events until they are confirmed, some of them twice."""
        for key in [*range(count), *random.sample(range(count), 2)]:
            await asyncio.sleep(random.uniform(0.0, 0.5))
            while name in self.report.acknowledged:
                with suppress(BackendUnavailable):
                    with suppress(InstanceFinishedError):
                        await hub.get(name).raise_event("key", key, idempotency_key=str(key))
                    break

    # --- workers -----------------------------------------------------------------------------

    async def _torment(self, random: Random) -> None:
        """Keep one place for a worker filled, with one process after another."""
        while self.report.kills < self._kills:
            worker = self._spawn("far" if random.random() < 0.3 else "near")
            try:
                await asyncio.sleep(random.uniform(0.2, 2.0))
                await self._end(worker, random.random())
            finally:
                worker.kill()
                worker.wait()

    async def _end(self, worker: subprocess.Popen[bytes], fate: float) -> None:
        self._expect(worker.poll() is None, f"a worker ended by itself with code {worker.poll()}")
        if fate < 0.10:
            self.report.stops += 1
            await self._stop(worker)
            return
        if fate < 0.20:
            # Its leases run out while it sleeps; it wakes as a stale owner and goes on working.
            self.report.freezes += 1
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.5 * LEASE_TIME)
            worker.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        worker.kill()
        self.report.kills += 1

    async def _stop(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        ended = await self._wait_for(lambda: worker.poll() is not None, 30.0)
        # SIGTERM itself ends a worker that is not up yet.
        self._expect(ended and worker.returncode in (0, -signal.SIGTERM), f"a graceful stop ended with {worker.poll()}")

    def _spawn(self, place: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.chaos_app", self._url, str(self._effects), str(LEASE_TIME), place]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log)

    async def _let_finish(self, hub: TaskHub) -> None:
        """Undisturbed workers bring everything to its end; what they do not is found by the judge."""
        workers = [self._spawn("near"), self._spawn("near")]
        try:
            if await self._wait_for_the_end():
                await hub.start("audit", instance_id=AUDIT)
                self.report.acknowledged[AUDIT] = Job("audit", ())
            if not await self._wait_for_the_end():
                for worker in workers:
                    worker.send_signal(signal.SIGUSR1)
                await asyncio.sleep(1.0)
            for worker in workers:
                await self._stop(worker)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    async def _wait_for_the_end(self) -> bool:
        """Whether all instances end; given up when nothing at all has changed for as long as our patience lasts."""
        revisions, deadline = -1, 0.0
        while (progress := read_progress(self._url)).busy:
            if revisions != (revisions := progress.revisions):
                deadline = monotonic() + self._patience
            elif monotonic() > deadline:
                self.report.findings.append(f"nothing moves any more: {sorted(progress.busy)}")
                return False
            await asyncio.sleep(0.5)
        return True

    async def _wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = monotonic() + seconds
        while not condition():
            if monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        return True

    # --- judgement -----------------------------------------------------------------------------

    def _expect(self, right: bool, finding: str) -> None:
        if not right:
            self.report.findings.append(finding)

    def _judge(self, instances: list[StoredInstance]) -> None:
        report = self.report
        effects = self._read_effects()
        report.findings += missing_instances(report.acknowledged, instances)
        jobs = report.acknowledged | report.in_doubt
        plain = {name: given for name, given in jobs.items() if given.name in workload.registry.orchestrators}
        alone = [instance for instance in instances if instance.instance_id in plain]
        report.findings += findings(alone)
        report.findings += unexplained_results(alone, effects)
        report.findings += outcome_findings(alone, plain)
        report.findings += replay_findings(each_execution(instances), messaging_workload.registry)
        others = [instance for instance in instances if instance.instance_id not in plain]
        talking = {name: given for name, given in jobs.items() if name not in plain}
        report.findings += messaging_findings(others, talking, {}, keep=settings(LEASE_TIME).keep_executions)
        report.findings += [
            f"a worker logged: {line}" for line in self._log.read_text().splitlines() if any(a in line for a in _ALARMS)
        ]
        report.executions = len(effects)
        report.repeated = len(effects) - len(executions(effects))
        report.recoveries = sum(
            max((checkpoint.recoveries for checkpoint in instance.checkpoints), default=0) for instance in instances
        )

    def _read_effects(self) -> list[Effect]:
        rows = [line.split() for line in self._effects.read_text().splitlines()]
        return [(instance, execution, int(task), int(attempt)) for instance, execution, task, attempt in rows]


def _job(number: int) -> Job:
    """The job of that number: every third talks to others. Of those the kinds that end by themselves: 0 to 6 of 9."""
    third, rest = divmod(number, 3)
    return job(number, threads=True) if rest < 2 else messaging_job(third // 7 * 9 + third % 7)
