"""Runs many simulated schedules, side by side, and says how rough they were and what was found.

    python -m tests.worker.simulate [--seeds 1000] [--first 0] [--jobs N]

One seed is one schedule: a scenario from its first start to its judgement, in virtual time. A finding names its seed;
``--first SEED --seeds 1`` runs it again as it was. The exit status is 1 when something was found.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from time import monotonic, process_time

from tests.worker.scenarios import run_scenario, scenario_of
from tests.worker.simulation import Outcome

_LIMIT = 120  # seconds of real time that a schedule may take; a usual one takes a fraction of one


class TooLong(BaseException):
    """A schedule took longer than any should. No code that is simulated may take it for an error of its own."""


@dataclass
class Tally:
    """What came of all schedules; ``findings`` begin with their seed. ``processor`` is in seconds."""

    schedules: int = 0
    seconds: float = 0.0
    operations: int = 0
    acknowledged: int = 0
    executions: int = 0
    deaths: int = 0
    processor: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, seed: int, processor: float, outcome: Outcome) -> None:
        """Count one schedule, which took so many seconds of a processor."""
        self.schedules += 1
        self.processor += processor
        self.operations += outcome.operations
        self.acknowledged += outcome.acknowledged
        self.executions += outcome.executions
        self.deaths += outcome.crashes
        self.faults += outcome.faults
        self.findings += [f"seed {seed}: {finding}" for finding in outcome.findings]

    def __str__(self) -> str:
        rows = {
            "schedules": f"{self.schedules} in {self.seconds:.0f} s, {60 * self.schedules / self.seconds:.0f} a minute",
            "processor time": f"{1000 * self.processor / self.schedules:.0f} ms a schedule",
            "store operations": f"{self.operations}",
            "starts confirmed": f"{self.acknowledged}",
            "activity executions": f"{self.executions}",
            "workers that died": f"{self.deaths}",
            "faults": f"{self.faults.total()}",
            **{f"  {kind}": f"{count}" for kind, count in sorted(self.faults.items())},
            "findings": f"{len(self.findings)}",
        }
        return "\n".join(f"{name + ':':24}{value:>10}" for name, value in rows.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the report. Returns the exit status: 0 when nothing was found, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.worker.simulate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a processor)")
    given = parser.parse_args(arguments)
    tally = run(range(given.first, given.first + given.seeds), given.jobs)
    sys.stdout.write(f"{tally}\n")
    for finding in tally.findings[:40]:
        sys.stdout.write(f"FINDING {finding}\n")
    return 1 if tally.findings else 0


def run(seeds: Sequence[int], jobs: int) -> Tally:
    """Run the schedules of ``seeds`` in so many processes, or in this one when it is one."""
    tally, began = Tally(), monotonic()
    if jobs == 1:
        for seed in seeds:
            tally.add(seed, *_schedule(seed))
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            for seed, (processor, outcome) in zip(seeds, pool.map(_schedule, seeds, chunksize=8), strict=True):
                tally.add(seed, processor, outcome)
    tally.seconds = monotonic() - began
    return tally


def _schedule(seed: int) -> tuple[float, Outcome]:
    """The seconds of a processor that the schedule took, and what became of it."""
    scenario, began = scenario_of(seed), process_time()
    try:
        with _limit():
            outcome = run_scenario(scenario)
    except (Exception, TooLong) as error:  # whatever it is, it is a finding, and the other seeds go on
        outcome = Outcome(findings=[f"ended with {error!r}"])
    outcome.trace.clear()  # long, and the same again when the seed is
    outcome.findings = [f"{finding}, {scenario}" for finding in outcome.findings]
    return process_time() - began, outcome


@contextmanager
def _limit() -> Iterator[None]:
    """Raise TooLong in the block when that is so: workers that go in circles do not end by themselves."""

    def too_long(number: int, frame: object) -> None:
        raise TooLong(f"no end after {_LIMIT} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main())
