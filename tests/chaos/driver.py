"""The chaos run: clients work while workers are killed and connections break; others finish the work; a judgement.

Rule of this file: it puts the parts together. Clients are in ``clients.py``, what is done to workers and to the
store in ``torment.py`` and ``weather.py``, what must have come of it in the judges.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random
from time import monotonic

from durable import TaskHub
from tests.chaos import pattern_workload, weather, workload
from tests.chaos.chaos_app import settings
from tests.chaos.checker import (
    Effect,
    StoredInstance,
    executions,
    findings,
    missing_instances,
    unexplained_results,
)
from tests.chaos.clients import SIGNALLED, Clients, Ledger
from tests.chaos.cut_off import Line
from tests.chaos.messaging_judge import each_execution
from tests.chaos.pattern_judge import pattern_findings, signal_findings
from tests.chaos.replaying import replay_findings
from tests.chaos.report import Report
from tests.chaos.stores import Progress, read_progress, read_store
from tests.chaos.torment import Fates, Workers
from tests.chaos.workload import outcome_findings

LEASE_TIME = 1.5
WORKERS = 3
_CROWDS = {"sqlite": 60, "mongodb": 25}  # instances under way, beyond which clients start no more
_ALARMS = ("cannot go on", "is parked", "never retrieved", "Traceback")


@dataclass(frozen=True)
class Storm:
    """How long it rages: until so many workers were killed and so many seconds are over.

    Clients start at most so many ``jobs`` from one kill to the next, and ``least`` in all, if need be after the storm.
    ``patience`` is for how many seconds nothing at all may change before the rest counts as stuck.
    """

    seed: int
    kills: int = 0
    seconds: float = 0.0
    jobs: float = inf
    least: int = 0
    patience: float = 45.0

    @property
    def keep(self) -> int:
        """How many former executions keep their histories: all, to be checked, or one, so that histories go."""
        return Random(f"{self.seed}/keep").choice((1, 1000))


class ChaosRun:
    """One run on the store at ``url``; what its workers log is kept in ``directory``."""

    def __init__(self, url: str, directory: Path, storm: Storm) -> None:
        self.report = Report(url.partition(":")[0], storm.seed)
        self._url = url
        self._storm = storm
        self._directory = directory
        self._workers = Workers(directory, self.report, LEASE_TIME, storm.keep, lambda: self._progress.revisions)
        self._progress = Progress(0, frozenset())
        self._began = monotonic()
        (directory / "effects.log").touch()

    async def run(self) -> Report:
        """Torment the workers, let others finish the work, and judge."""
        self._began = monotonic()
        async with weather.lines_to(self._url, WORKERS + 1) as (lines, urls):
            chosen = settings(LEASE_TIME, self._storm.keep, start_timeout=1.0)
            hub = TaskHub(weather.impatient(urls[-1]), settings=chosen)
            hub.include(pattern_workload.registry)
            async with hub:
                clients = Clients(hub, self._storm.seed, self._raging, self._crowded, self._storm.least)
                async with asyncio.TaskGroup() as group:
                    working = group.create_task(clients.run())
                    await self._rage(lines, urls)
                    self.report.stormy = monotonic() - self._began
                    await self._let_finish(clients, working)
        self._judge(read_store(self._url), clients.ledger)
        self.report.seconds = monotonic() - self._began
        return self.report

    def _raging(self) -> bool:
        storm = self._storm
        return self.report.kills < storm.kills or monotonic() - self._began < storm.seconds

    def _crowded(self, started: int) -> bool:
        return len(self._progress.busy) > _CROWDS[self.report.store] or started >= self._storm.jobs * (
            self.report.kills + 1
        )

    async def _rage(self, lines: list[Line], urls: list[str]) -> None:
        fates = Fates(Random(f"{self._storm.seed}/fates"))
        async with asyncio.TaskGroup() as group:
            for place in range(WORKERS):
                random = Random(f"{self._storm.seed}/{place}")
                group.create_task(self._workers.torment(urls[place], random, fates, self._raging))
            random = Random(f"{self._storm.seed}/weather")
            group.create_task(weather.rage(self._url, lines, random, self._raging, self.report.disturbances))
            group.create_task(self._watch_progress())

    async def _watch_progress(self) -> None:
        while self._raging():
            self._progress = await asyncio.to_thread(read_progress, self._url)
            await asyncio.sleep(0.5)

    # --- the end of the work -------------------------------------------------------------------

    async def _let_finish(self, clients: Clients, working: asyncio.Task[None]) -> None:
        """Undisturbed workers bring everything to its end; what they do not is found by the judge."""
        processes = [self._workers.spawn(self._url, "near") for _ in range(2)]
        try:
            await asyncio.wait({working}, timeout=self._storm.patience)
            if not working.done():
                self.report.findings.append("clients are not done: what they ask for is not confirmed")
                working.cancel()
            if await self._wait_for_the_end():
                await clients.audit("audit")
            if not await self._wait_for_the_end():
                for process in processes:
                    process.send_signal(signal.SIGUSR1)  # it logs what it has in hand
                await asyncio.sleep(1.0)
            for process in processes:
                await self._workers.stop(process)
        finally:
            for process in processes:
                process.kill()
                process.wait()

    async def _wait_for_the_end(self) -> bool:
        """Whether all instances end; given up when nothing at all has changed for as long as our patience lasts."""
        revisions, deadline = -1, 0.0
        while (progress := await asyncio.to_thread(read_progress, self._url)).busy:
            if revisions != (revisions := progress.revisions):
                deadline = monotonic() + self._storm.patience
            elif monotonic() > deadline:
                self.report.findings.append(f"nothing moves any more: {sorted(progress.busy)}")
                return False
            await asyncio.sleep(0.5)
        return True

    # --- judgement -----------------------------------------------------------------------------

    def _judge(self, instances: list[StoredInstance], ledger: Ledger) -> None:
        report, histories = self.report, each_execution(instances)
        effects = self._read_effects()
        plain = {name: given for name, given in ledger.jobs.items() if given.name in workload.registry.orchestrators}
        alone = [instance for instance in instances if instance.instance_id in plain]
        others = [instance for instance in instances if instance.instance_id not in plain]
        talking = {name: given for name, given in ledger.jobs.items() if name not in plain}
        counter = f"@counter@{SIGNALLED}"
        report.findings += missing_instances(ledger.acknowledged, instances)
        report.findings += findings(alone)
        report.findings += outcome_findings(alone, plain)
        report.findings += unexplained_results(histories, effects)
        report.findings += replay_findings(histories, pattern_workload.registry)
        report.findings += pattern_findings(others, talking, ledger.disturbed, keep=self._storm.keep)
        report.findings += signal_findings(instances, counter, ledger.signals, ledger.doubtful_signals)
        report.findings += self._alarms()
        self._count(instances, histories, ledger, effects)

    def _count(
        self,
        instances: Collection[StoredInstance],
        histories: Collection[StoredInstance],
        ledger: Ledger,
        effects: Collection[Effect],
    ) -> None:
        report = self.report
        report.confirmed, report.doubtful = ledger.confirmed, ledger.doubtful
        report.jobs = Counter(given.name for given in ledger.jobs.values())
        report.instances, report.histories = len(instances), len(histories)
        report.events = sum(len(checkpoint.events) for instance in instances for checkpoint in instance.checkpoints)
        report.executions, report.repeated = len(effects), len(effects) - len(executions(effects))
        report.recoveries = sum(
            max((checkpoint.recoveries for checkpoint in instance.checkpoints), default=0) for instance in instances
        )

    def _alarms(self) -> list[str]:
        lines = (self._directory / "workers.log").read_text().splitlines()
        return [f"a worker logged: {line}" for line in lines if any(alarm in line for alarm in _ALARMS)]

    def _read_effects(self) -> list[Effect]:
        rows = [line.split() for line in (self._directory / "effects.log").read_text().splitlines()]
        return [(instance, execution, int(task), int(attempt)) for instance, execution, task, attempt in rows]
