"""Driving an orchestration by hand: no store, no clock, no worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from durable.core.context import OrchestrationContext
from durable.core.events import (
    ArrivedEvent,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    TaskCompleted,
)
from durable.core.replay import Orchestration
from durable.core.state import InstanceState
from durable.core.turns import split_turns
from durable.payloads import encode
from durable.registry import Registry
from durable.worker.services import WorkerServices

START = 1_700_000_000_000_000


class Services(WorkerServices):
    """What the core borrows, for tests; ``reports`` holds what user code left unhandled."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.reports: list[dict[str, Any]] = []

    def report(self, context: OrchestrationContext, problem: dict[str, Any]) -> None:
        self.reports.append(problem)


class Driver:
    """One orchestration with the history it makes."""

    def __init__(self, registry: Registry, name: str, *args: Any) -> None:
        definition = registry.orchestrators[name]
        payload = definition.encode_arguments(args, {})
        self.registry = registry
        self.started = ExecutionStarted(START, "instance", "execution", name, payload)
        self.services = Services(registry)
        self.orchestration = Orchestration(self.started, definition.begin, self.services)
        self.state = InstanceState()
        self.history: list[HistoryEvent] = []
        self.now = START

    def turn(self, *arrived: ArrivedEvent, after: float = 1.0) -> tuple[HistoryEvent, ...]:
        """Run a turn ``after`` seconds; returns its events."""
        self.now += int(after * 1_000_000)
        try:
            *_, events = self.orchestration.turn(arrived, self.now)
        except BaseException:
            self.orchestration.discard()
            raise
        assert events is not None
        self.history += events
        self.state.apply_all(events)
        return events

    def start(self) -> tuple[HistoryEvent, ...]:
        return self.turn(self.started, after=0)

    def complete(self, task_id: int, result: Any) -> TaskCompleted:
        return TaskCompleted(self.now, task_id, encode(result, "a result"))

    def run(self, answer: Callable[[str, str], Any], *, limit: int = 1000) -> ExecutionCompleted:
        """Answer activities and fire timers, one event a turn, until the orchestration ends."""
        events = self.start()
        for _ in range(limit):
            if isinstance(events[-2], ExecutionCompleted):
                return events[-2]
            if self.state.activities:
                task = next(iter(self.state.activities.values()))
                events = self.turn(self.complete(task.task_id, answer(task.name, task.input)))
            else:
                self.now = max(self.now, min(self.state.timers.values()))
                events = self.turn(*self.state.due_timers(self.now)[:1], after=0)
        raise AssertionError(f"not ended after {limit} turns")


def replayed(registry: Registry, history: Iterable[HistoryEvent], *, strict: bool = True) -> Orchestration:
    """A cold replay of ``history``; raises NonDeterminismError when the code does not agree with it."""
    turns = list(split_turns(history))
    started = turns[0].arrived[0]
    assert isinstance(started, ExecutionStarted)
    definition = registry.orchestrators[started.name]
    orchestration = Orchestration(started, definition.begin, Services(registry), strict=strict)
    try:
        for _ in orchestration.replay(turns):
            pass
    except BaseException:
        orchestration.discard()
        raise
    return orchestration
