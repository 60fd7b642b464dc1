"""Forking: a new execution that shares the beginning of another one's history, and goes on from there by itself.

Rule of this file: what is shared is whole turns, copied as they are, so that they replay as they ran. What had
arrived after them, up to the point, arrives again; what was not answered is asked for again, under ids of the fork.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from durable.core import events as ev
from durable.core.ids import child_id
from durable.core.state import InstanceState

_OUTCOMES = (
    ev.TaskCompleted,
    ev.TaskFailed,
    ev.TimerFired,
    ev.SubOrchestrationInstanceCompleted,
    ev.SubOrchestrationInstanceFailed,
    ev.EntityOperationCompleted,
    ev.EntityOperationFailed,
    ev.EventRaised,
)


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a history can be forked: after its event ``number``.

    ``turns`` are the events of the whole turns before, ``arrived`` those that open the turn of that event, it included.
    """

    number: int
    turns: tuple[ev.HistoryEvent, ...]
    arrived: tuple[ev.HistoryEvent, ...]


def fork_point(checkpoints: Sequence[Sequence[ev.HistoryEvent]], number: int | None) -> ForkPoint:
    """The point after the event of that number, counted through all checkpoints; None: the last there is.

    Raises ValueError: there is none, or not there; the message names the valid neighbours.
    """
    counted = list(_counted(checkpoints))
    points = {counted[place][0]: place for place in _points([event for _, event in counted])}
    if not points:
        raise ValueError("nothing that it waited for has come yet, so there is nothing to share; restart it instead")
    wanted = max(points) if number is None else number
    if wanted not in points:
        around = (
            max((n for n in points if n < wanted), default=None),
            min((n for n in points if n > wanted), default=None),
        )
        nearest = " and ".join(str(n) for n in around if n is not None)
        raise ValueError(
            f"event {wanted} is not the outcome of something awaited, or lies in a critical section or the first turn; "
            f"the nearest to fork from: {nearest}"
        )
    place = points[wanted]
    events = [event for _, event in counted[: place + 1]]
    opens = max(at for at, event in enumerate(events) if type(event) is ev.OrchestratorCompleted) + 1
    return ForkPoint(wanted, tuple(events[:opens]), tuple(events[opens:]))


def _counted(checkpoints: Sequence[Sequence[ev.HistoryEvent]]) -> list[tuple[int, ev.HistoryEvent]]:
    """The events that count, with their numbers: those that a rewind took back left out (see ``rewinding``)."""
    counted: list[tuple[int, ev.HistoryEvent]] = []
    number = 0
    for checkpoint in checkpoints:
        if checkpoint and isinstance(first := checkpoint[0], ev.ExecutionRewound):
            del counted[first.keep :]
        counted += enumerate(checkpoint, number)
        number += len(checkpoint)
    return counted


def _points(events: Sequence[ev.HistoryEvent]) -> Iterator[int]:
    """The places of the outcomes after the first turn, but not in a critical section: its locks cannot be shared."""
    state = InstanceState()
    turns = 0
    for place, event in enumerate(events):
        if turns and isinstance(event, _OUTCOMES) and not (state.sections or state.lock_requests):
            yield place
        state.apply(event)
        turns += type(event) is ev.OrchestratorCompleted


def forked_history(
    point: ForkPoint, origin: ev.ForkOrigin, instance_id: str, execution_id: str, version: str | None, now: int
) -> tuple[list[ev.HistoryEvent], list[ev.HistoryEvent]]:
    """The history with which a fork begins: what it copies, and the turn by which it becomes itself."""
    state = InstanceState()
    state.apply_all(point.turns)
    again: Any = tuple(_nameless(event) for event in point.arrived if type(event) is not ev.TimerFired)
    answered = {getattr(event, "task_id", 0) for event in again}
    timestamp = max(now, state.last_timestamp)
    fork = ev.ExecutionForked(timestamp, instance_id, execution_id, origin, version, again)
    copied = _copied(point.turns, state.children.keys() - answered, state.deferred - answered, fork)
    return copied, [fork, ev.OrchestratorStarted(timestamp), ev.OrchestratorCompleted(timestamp)]


def _copied(
    events: Sequence[ev.HistoryEvent], children: set[int], deferred: set[int], fork: ev.ExecutionForked
) -> list[ev.HistoryEvent]:
    """The events as the fork keeps them.

    Children that are asked for again get ids of the fork. Activities to be completed from outside are run again, as the
    token names the execution. ``opening`` is how many events there were before the turn.
    """
    copied: list[ev.HistoryEvent] = []
    opening = 0
    for event in events:
        if isinstance(event, ev.TaskDeferred) and event.task_id in deferred:
            continue
        if isinstance(event, ev.OrchestratorCompleted) and isinstance(copied[opening], ev.OrchestratorStarted):
            del copied[opening:]  # nothing else had arrived in that turn, and nothing was decided
            continue
        if isinstance(event, ev.SubOrchestrationInstanceCreated) and event.task_id in children:
            event = replace(event, instance_id=child_id(fork.instance_id, fork.execution_id, event.task_id))
        copied.append(_nameless(event))
        if isinstance(event, ev.OrchestratorCompleted):
            opening = len(copied)
    return copied


def _nameless(event: Any) -> Any:
    """An event without the id of the message that brought it, which was another instance's."""
    return event if getattr(event, "message_id", None) is None else replace(event, message_id=None)
