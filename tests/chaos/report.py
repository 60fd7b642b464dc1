"""What a chaos run tells: what was done to the workers, what clients were promised, what was checked, what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Report:
    """One run on one store. ``stormy`` and ``seconds`` are how long it raged, and how long everything took."""

    store: str
    seed: int
    stormy: float = 0.0
    seconds: float = 0.0
    deaths: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    confirmed: Counter[str] = field(default_factory=Counter)
    doubtful: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    instances: int = 0
    histories: int = 0
    events: int = 0
    recoveries: int = 0
    executions: int = 0
    repeated: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many workers were killed."""
        return self.deaths.total()

    def __str__(self) -> str:
        return "\n".join(f"{name + ':':25}{text}" for name, text in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "store", self.store
        yield "seed", str(self.seed)
        yield "seconds", f"{self.stormy:.0f} of storm, {self.seconds:.0f} with the end of the work and the judgement"
        yield "workers killed", _counted(self.deaths)
        yield "other disturbances", _counted(self.disturbances)
        yield "operations confirmed", _counted(self.confirmed)
        yield "operations in doubt", _counted(self.doubtful)
        yield "jobs", _counted(self.jobs)
        yield "instances", f"{self.instances}, recovered {self.recoveries} times"
        yield "activities", f"{self.executions} executions, {self.repeated} of them repeats"
        yield "checked", f"{self.events} events, {self.histories} histories replayed"
        yield "findings", str(len(self.findings))


def summary(reports: Iterable[Report], most: int = 40) -> str:
    """The reports one after the other, each with the first of its findings."""
    parts = [
        f"{report}\n" + "".join(f"FINDING {finding}\n" for finding in report.findings[:most]) for report in reports
    ]
    return "\n".join(parts)


def exit_status(reports: Iterable[Report]) -> int:
    """0 when every promise was kept, else 1."""
    return int(any(report.findings for report in reports))


def _counted(counts: Counter[str]) -> str:
    listed = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    return f"{counts.total()} ({listed})" if listed else "0"
