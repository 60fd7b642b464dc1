"""Rewinding: taking an execution that ended badly back to before its first failure, and on from there.

Rule of this file: history is never changed. ``ExecutionRewound`` says how many events still count; what
succeeded after them is kept, by what was called, and answers the same calls when they are made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from durable.core import events as ev
from durable.core.calls import call_of
from durable.core.state import InstanceState

_FAILURES = (
    ev.TaskFailed,
    ev.SubOrchestrationInstanceFailed,
    ev.EntityOperationFailed,
    ev.ExecutionTerminated,
    ev.ExecutionCancelRequested,
)
_SUCCESSES = (ev.TaskCompleted, ev.SubOrchestrationInstanceCompleted, ev.EntityOperationCompleted)


def effective(checkpoints: Sequence[Sequence[ev.HistoryEvent]]) -> list[ev.HistoryEvent]:
    """The events that count: those that a later ExecutionRewound takes back left out."""
    events: list[ev.HistoryEvent] = []
    for checkpoint in checkpoints:
        if checkpoint and isinstance(first := checkpoint[0], ev.ExecutionRewound):
            del events[first.keep :]
        events += checkpoint
    return events


def rewind_point(events: Sequence[ev.HistoryEvent]) -> int:
    """How many of these events still count when the execution is rewound: whole turns, up to the first failure.

    The last turn never does: it ended the execution. Nor does what happened in a critical section, as its
    locks were given back. What a fork copied always does: it was not the fork that failed there.
    """
    begins = _turn_starts(events)
    copied = max((place for place, event in enumerate(events) if isinstance(event, ev.ExecutionForked)), default=-1)
    after = enumerate(events[copied + 1 :], copied + 1)
    failed = next((place for place, event in after if isinstance(event, _FAILURES)), len(events))
    keep = max(start for start in begins if start <= failed)
    keep = min(keep, begins[-1])
    while keep and (open_sections := _sections(events[:keep])):
        asked = min(open_sections)
        keep = max(start for start in begins if start <= asked)
    return keep


def _turn_starts(events: Sequence[ev.HistoryEvent]) -> list[int]:
    ends = [place + 1 for place, event in enumerate(events) if isinstance(event, ev.OrchestratorCompleted)]
    return [0, *ends[:-1]]


def _sections(events: Sequence[ev.HistoryEvent]) -> list[int]:
    """Where the critical sections were asked for that these events leave open."""
    state = InstanceState()
    state.apply_all(events)
    wanted = state.lock_requests.keys() | state.sections.keys()
    return [
        place
        for place, event in enumerate(events)
        if isinstance(event, ev.EntityLockRequested) and event.task_id in wanted
    ]


def rewound_state(events: Sequence[ev.HistoryEvent], keep: int) -> InstanceState:
    """The state after the first ``keep`` of ``events``, which knows what had succeeded in the others."""
    state = InstanceState()
    state.apply_all(events[:keep])
    state.rewinding = True
    answered = {event.task_id: event.result for event in events[keep:] if isinstance(event, _SUCCESSES)}
    for event in events[keep:]:
        call = call_of(event)
        if call is not None and event.task_id in answered:  # type: ignore[union-attr]
            state.kept.setdefault(call, []).append(answered[event.task_id])  # type: ignore[union-attr]
    # A call that failed and was tried again with success: the first one has that answer now.
    for task_id, asked in outstanding_calls(state).items():
        if task_id not in answered:
            state.use_kept(asked)
    return state


def last_task(events: Iterable[ev.HistoryEvent]) -> int:
    """The highest task id in the events of an orchestration; 0 where there is none."""
    return max((getattr(event, "task_id", 0) for event in events), default=0)


def outstanding_calls(state: InstanceState) -> dict[int, Any]:
    """The events of the calls that have no outcome yet, by task id."""
    return {**state.activities, **state.children, **state.calls}


def redelivered(events: Sequence[ev.HistoryEvent], keep: int) -> list[Any]:
    """What arrived after the first ``keep`` events and is to arrive again: answers to what is asked in these, and
    external events.
    """
    state = InstanceState()
    state.apply_all(events[:keep])
    again: list[Any] = []
    for event in events[keep:]:
        if isinstance(event, ev.ExecutionStarted):
            again.append(event)  # back to the beginning
        elif isinstance(event, (*_SUCCESSES, ev.EventRaised)) and state.accepts(event):
            again.append(event)
            state.apply(event)
    return again


def kept_answers(state: InstanceState, timestamp: int) -> list[ev.ArrivedEvent]:
    """The results from before a rewind that answer what is outstanding."""
    answers: list[ev.ArrivedEvent] = []
    for task_id, result in state.answers.items():
        if task_id in state.activities:
            answers.append(ev.TaskCompleted(timestamp, task_id, result))
        elif task_id in state.children:
            answers.append(ev.SubOrchestrationInstanceCompleted(timestamp, task_id, result))
        elif task_id in state.calls:
            answers.append(ev.EntityOperationCompleted(timestamp, task_id, result))
    return answers
