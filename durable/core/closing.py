"""Turns that ask no code: the end of an instance that is terminated."""

from __future__ import annotations

from collections.abc import Sequence

from durable.core import events as ev
from durable.core.state import InstanceState, RuntimeStatus


def terminate(state: InstanceState, arrived: Sequence[ev.ArrivedEvent], timestamp: int) -> tuple[ev.HistoryEvent, ...]:
    """The turn that ends an instance at once: children end with it, locks are given back.

    ``arrived`` is the termination, after the start if the instance had no turn before.
    """
    event = arrived[-1]
    assert isinstance(event, ev.ExecutionTerminated)
    decisions: list[ev.Decision] = [
        ev.TaskCancelRequested(timestamp, task_id) for task_id in state.activities.keys() | state.deferred
    ]
    if event.recurse:
        for task_id, child in state.children.items():
            if child.parent_close != "abandon":
                decisions.append(ev.TaskCancelRequested(timestamp, task_id, child.parent_close == "terminate"))
    for task_id, section in (state.lock_requests | state.sections).items():
        decisions += [ev.EntityUnlockSent(timestamp, task_id, entity_id) for entity_id in section.lock_set]
    return (
        *arrived,
        ev.OrchestratorStarted(timestamp),
        *sorted(decisions, key=lambda one: getattr(one, "task_id", 0)),
        ev.ExecutionCompleted(timestamp, RuntimeStatus.TERMINATED.value, result=event.input),
        ev.OrchestratorCompleted(timestamp),
    )
