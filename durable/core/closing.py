"""Turns that ask no code: the end of an instance that is terminated, or whose history has grown too long.

Rule of this file: what the code would have given up when it ended is given up here, from the state alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from durable.core import events as ev
from durable.core.errors import FailureDetails, HistoryLimitError
from durable.core.state import InstanceState, RuntimeStatus
from durable.core.turns import RecordedTurn

_TOO_LONG = f"{HistoryLimitError.__module__}.{HistoryLimitError.__qualname__}"


def terminate(state: InstanceState, arrived: Sequence[ev.ArrivedEvent], timestamp: int) -> tuple[ev.HistoryEvent, ...]:
    """The turn that ends an instance at once: children end with it, locks are given back.

    ``arrived`` is the termination, after the start if the instance had no turn before.
    """
    event = arrived[-1]
    assert isinstance(event, ev.ExecutionTerminated)
    completed = ev.ExecutionCompleted(timestamp, RuntimeStatus.TERMINATED.value, result=event.input)
    return _closing_turn(state, arrived, timestamp, completed, recurse=event.recurse)


def fail_for_length(
    state: InstanceState, arrived: Sequence[ev.ArrivedEvent], timestamp: int, limit: int
) -> tuple[ev.HistoryEvent, ...]:
    """The turn that fails an instance whose history has ``limit`` events or more.

    What has ``arrived`` is recorded, so that a rewind under a higher limit gives it to the code.
    """
    error = HistoryLimitError(
        f"the history of this execution has {state.length:,} events, and max_history is {limit:,}. Have the "
        "orchestrator call ctx.continue_as_new from time to time, or divide the work among sub-orchestrations. To let "
        "this instance go on, raise max_history and rewind it"
    )
    completed = ev.ExecutionCompleted(timestamp, RuntimeStatus.FAILED.value, failure=FailureDetails.of(error))
    return _closing_turn(state, arrived, timestamp, completed, recurse=True)


def asked_no_code(turn: RecordedTurn) -> bool:
    """Whether a recorded turn is one of this file, which replay must not compare with what the code decides."""
    if type(turn.arrived[-1]) is ev.ExecutionTerminated:
        return True
    last = turn.decisions[-1] if turn.decisions else None
    return isinstance(last, ev.ExecutionCompleted) and last.failure is not None and last.failure.error_type == _TOO_LONG


def _closing_turn(
    state: InstanceState,
    arrived: Sequence[ev.ArrivedEvent],
    timestamp: int,
    completed: ev.ExecutionCompleted,
    *,
    recurse: bool,
) -> tuple[ev.HistoryEvent, ...]:
    decisions: list[ev.Decision] = [
        ev.TaskCancelRequested(timestamp, task_id) for task_id in state.activities.keys() | state.deferred
    ]
    if recurse:
        for task_id, child in state.children.items():
            if child.parent_close != "abandon":
                decisions.append(ev.TaskCancelRequested(timestamp, task_id, child.parent_close == "terminate"))
    for task_id, section in (state.lock_requests | state.sections).items():
        decisions += [ev.EntityUnlockSent(timestamp, task_id, entity_id) for entity_id in section.lock_set]
    return (
        *arrived,
        ev.OrchestratorStarted(timestamp),
        *sorted(decisions, key=lambda one: getattr(one, "task_id", 0)),
        completed,
        ev.OrchestratorCompleted(timestamp),
    )
