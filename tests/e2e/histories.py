"""Reading histories in tests: the kinds of their rows, what was given up, and a strict replay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from durable import TaskHub
from durable.core import events as ev
from durable.core.replay import Orchestration
from durable.core.turns import split_turns
from durable.worker.services import WorkerServices

E = TypeVar("E")

_FRAMES = ("OrchestratorStarted", "OrchestratorCompleted")


def rows_of(history: Iterable[ev.HistoryEvent], kind: type[E]) -> list[E]:
    """The rows of one kind."""
    return [event for event in history if isinstance(event, kind)]


def kinds_of(history: Iterable[ev.HistoryEvent]) -> list[str]:
    """The kinds of all rows but those that frame a turn."""
    return [name for event in history if (name := type(event).__name__) not in _FRAMES]


def given_up(history: Sequence[ev.HistoryEvent]) -> list[str]:
    """The kinds of what was asked for and then given up, in the order of giving up."""
    asked: dict[Any, str] = {}
    for event in history:
        if isinstance(event, ev.TaskScheduled | ev.TimerCreated | ev.SubOrchestrationInstanceCreated):
            asked[event.task_id] = type(event).__name__
    return [asked[event.task_id] for event in rows_of(history, ev.TaskCancelRequested)]


def replay_strictly(hub: TaskHub, history: Sequence[ev.HistoryEvent]) -> None:
    """Run the code over its whole history once more. Raises NonDeterminismError where any detail differs."""
    started = history[0]
    assert isinstance(started, ev.ExecutionStarted)
    definition = hub.find_orchestrator(started.name)
    orchestration = Orchestration(started, definition.begin, WorkerServices(hub), strict=True)
    try:
        for _ in orchestration.replay(split_turns(history)):
            pass
    finally:
        orchestration.discard()
