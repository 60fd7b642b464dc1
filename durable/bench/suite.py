"""The suite: each workload several times, each time in a process of its own, and the medians of what it measured.

Rule of this file: what was made is taken away after each run, whatever became of it; no process outlives the suite.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, replace
from statistics import median

from durable.bench.measuring import Result
from durable.bench.plan import chosen, plan
from durable.bench.running import FLOOR_SECONDS, SECONDS
from durable.bench.stores import Store


@dataclass(frozen=True)
class Line:
    """A workload in the report: ``result`` has the medians of ``runs`` runs."""

    workload: str
    runs: int
    result: Result


class BenchmarkError(RuntimeError):
    """A workload did not come to its end; what it said is on stderr."""


@dataclass(frozen=True)
class Suite:
    """What is to be run, and how often. ``only`` is as in ``plan.chosen``. Raises ValueError for a bad choice."""

    store: Store
    only: str | None = None
    runs: int = 3
    quick: bool = False

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ValueError(f"a workload must run at least once, not {self.runs} times")
        self.names()

    def names(self) -> list[str]:
        """The workloads that were chosen."""
        return chosen(plan(self.store.kind, self.quick), self.only)

    async def line(self, name: str) -> Line:
        """Run a workload as often as it is to be. Raises BenchmarkError when a run fails."""
        plain = replace(self.store, floors=False)
        results = [await self._run(name, plain) for _ in range(self.runs)]
        figures = {figure: median(each.figures[figure] for each in results) for figure in results[0].figures}
        if (seconds := figures.pop(SECONDS, None)) is not None:
            # In a run of its own: the writes that are kept fill the memory, which costs the engine a quarter more.
            floor = (await self._run(name, self.store)).figures
            figures["floor CPU ms each"] = floor["floor CPU ms each"]
            figures["x floor"] = seconds / floor[FLOOR_SECONDS]
        return Line(name, self.runs, replace(results[0], figures=figures))

    async def _run(self, name: str, store: Store) -> Result:
        task = json.dumps({"name": name, "store": store.as_json(), "quick": self.quick})
        command = (sys.executable, "-m", "durable.bench.child", task)
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, start_new_session=True)
        try:
            answer, _ = await process.communicate()
        finally:
            await _end(process)
            await asyncio.to_thread(store.clear)
        if process.returncode != 0:
            raise BenchmarkError(f"workload {name} ended with code {process.returncode}")
        return Result(**json.loads(answer))


async def _end(process: Process) -> None:
    """Kill a process that still runs, with those that it started."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session, so a group, of its own
        await process.wait()
