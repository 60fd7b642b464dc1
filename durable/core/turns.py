"""Turns: a history taken apart into what arrived, when it ran, and what the code decided.

A turn is recorded as the events that arrived, OrchestratorStarted, the decisions, OrchestratorCompleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

from durable.core.events import (
    ArrivedEvent,
    Decision,
    HistoryEvent,
    OrchestratorCompleted,
    OrchestratorStarted,
)
from durable.core.values import value

_ARRIVED = frozenset(get_args(ArrivedEvent))
_DECIDED = frozenset(get_args(Decision))


@value
class RecordedTurn:
    """One committed turn."""

    arrived: tuple[ArrivedEvent, ...]
    timestamp: int
    decisions: tuple[Decision, ...]


def split_turns(history: Iterable[HistoryEvent]) -> Iterator[RecordedTurn]:
    """Cut a history into its turns. Raises ValueError when the rows are not whole turns."""
    arrived: list[Any] = []
    decisions: list[Any] = []
    timestamp: int | None = None
    for event in history:
        kind = type(event)
        if kind is OrchestratorStarted:
            timestamp = event.timestamp
        elif kind is OrchestratorCompleted and timestamp is not None:
            yield RecordedTurn(tuple(arrived), timestamp, tuple(decisions))
            arrived, decisions, timestamp = [], [], None
        elif timestamp is None and kind in _ARRIVED:
            arrived.append(event)
        elif timestamp is not None and kind in _DECIDED:
            decisions.append(event)
        else:
            raise ValueError(f"history rows are out of order: unexpected {event}")
    if arrived or decisions or timestamp is not None:
        raise ValueError("history ends inside a turn: OrchestratorCompleted is missing")
