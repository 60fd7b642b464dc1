"""The judge of the chaos tests must see what is broken: each kind of damage, done by hand to a good history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from durable import Settings, TaskHub
from durable.testing.memory import MemoryBackend
from tests.chaos import workload
from tests.chaos.checker import (
    Effect,
    StoredCheckpoint,
    StoredInstance,
    findings,
    missing_instances,
    unexplained_results,
)
from tests.chaos.replaying import replay_findings
from tests.chaos.stores import read_memory
from tests.chaos.workload import Job, outcome_findings

JOB = Job("mixed", (5,))
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def good() -> tuple[StoredInstance, list[Effect]]:
    return asyncio.run(run_once())


async def run_once() -> tuple[StoredInstance, list[Effect]]:
    effects: list[Effect] = []
    workload.record_effects_with(lambda c: effects.append((c.instance_id, c.execution_id, c.task_id, c.attempt)))
    backend = MemoryBackend()
    hub = TaskHub(backend, settings=Settings(partitions=1))
    hub.include(workload.registry)
    async with hub.worker():
        handle = await hub.start(JOB.name, *JOB.args, instance_id="one")
        await handle.result(timeout=20)
    return read_memory(backend.store)[0], effects


def test_a_good_history_is_found_good(good: tuple[StoredInstance, list[Effect]]) -> None:
    instance, effects = good
    assert findings([instance]) == []
    assert unexplained_results([instance], effects) == []
    assert missing_instances(["one"], [instance]) == []
    assert replay_findings([instance], workload.registry) == []
    assert outcome_findings([instance], {"one": JOB}) == []


def rewritten(instance: StoredInstance, change: Callable[[int, Events], Events]) -> StoredInstance:
    """The instance with the events of each checkpoint changed."""
    changed = [replace(c, events=change(c.seq, [dict(e) for e in c.events])) for c in instance.checkpoints]
    return replace(instance, checkpoints=changed)


def without_one_checkpoint(instance: StoredInstance) -> StoredInstance:
    return replace(instance, checkpoints=[c for c in instance.checkpoints if c.seq != 2])


def with_one_checkpoint_twice(instance: StoredInstance) -> StoredInstance:
    return replace(instance, checkpoints=[*instance.checkpoints, instance.checkpoints[1]])


def without_the_last_checkpoint(instance: StoredInstance) -> StoredInstance:
    return replace(instance, checkpoints=list(instance.checkpoints)[:-1])


def of_another_execution(instance: StoredInstance) -> StoredInstance:
    foreign: StoredCheckpoint = replace(instance.checkpoints[1], execution_id="another")
    return replace(instance, checkpoints=[instance.checkpoints[0], foreign, *instance.checkpoints[2:]])


def with_a_result_twice(instance: StoredInstance) -> StoredInstance:
    result = dict(next(e for c in instance.checkpoints for e in c.events if e["type"] == "TaskCompleted"))
    return rewritten(
        instance, lambda seq, events: [result, *events] if seq == len(instance.checkpoints) - 1 else events
    )


def with_a_result_of_nothing(instance: StoredInstance) -> StoredInstance:
    stray = {"type": "TaskCompleted", "timestamp": 0, "task_id": 99, "result": "1", "attempt": 1}
    return rewritten(instance, lambda seq, events: [stray, *events] if seq == 1 else events)


def with_an_impossible_attempt(instance: StoredInstance) -> StoredInstance:
    return rewritten(
        instance, lambda seq, events: [e | {"attempt": 0} if e["type"] == "TaskCompleted" else e for e in events]
    )


def with_rows_swapped(instance: StoredInstance) -> StoredInstance:
    return rewritten(instance, lambda seq, events: [events[1], events[0], *events[2:]])


def with_half_a_turn(instance: StoredInstance) -> StoredInstance:
    return rewritten(instance, lambda seq, events: events[:-1])


def with_an_early_timer(instance: StoredInstance) -> StoredInstance:
    return rewritten(
        instance,
        lambda seq, events: [e | {"timestamp": 1} if e["type"] == "OrchestratorStarted" else e for e in events],
    )


def with_a_task_id_skipped(instance: StoredInstance) -> StoredInstance:
    return rewritten(
        instance, lambda seq, events: [e | {"task_id": e["task_id"] + 1} if "task_id" in e else e for e in events]
    )


def started_twice(instance: StoredInstance) -> StoredInstance:
    first = dict(instance.checkpoints[0].events[0])
    return rewritten(instance, lambda seq, events: [first, *events] if seq == 1 else events)


def still_running(instance: StoredInstance) -> StoredInstance:
    return replace(instance, status="Running")


def with_another_output(instance: StoredInstance) -> StoredInstance:
    return replace(instance, output="42")


def with_an_old_record(instance: StoredInstance) -> StoredInstance:
    return replace(instance, rev=instance.rev - 1)


def still_due(instance: StoredInstance) -> StoredInstance:
    return replace(instance, due_at=0)


DAMAGES = [
    without_one_checkpoint,
    with_one_checkpoint_twice,
    without_the_last_checkpoint,
    of_another_execution,
    with_a_result_twice,
    with_a_result_of_nothing,
    with_an_impossible_attempt,
    with_rows_swapped,
    with_half_a_turn,
    with_an_early_timer,
    with_a_task_id_skipped,
    started_twice,
    still_running,
    with_another_output,
    with_an_old_record,
    still_due,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found(
    damage: Callable[[StoredInstance], StoredInstance], good: tuple[StoredInstance, list[Effect]]
) -> None:
    assert findings([damage(good[0])]) != []


def test_a_lost_start_is_found(good: tuple[StoredInstance, list[Effect]]) -> None:
    assert missing_instances(["one", "two"], [good[0]]) == [
        "two: its start was acknowledged, but it is not in the store"
    ]


def test_a_result_of_an_activity_that_never_ran_is_found(good: tuple[StoredInstance, list[Effect]]) -> None:
    instance, effects = good
    assert len(unexplained_results([instance], effects[1:])) == 1


def test_a_wrong_answer_is_found(good: tuple[StoredInstance, list[Effect]]) -> None:
    assert outcome_findings([with_another_output(good[0])], {"one": JOB}) != []
    assert outcome_findings([still_running(good[0])], {"one": JOB}) != []


def test_an_input_that_the_code_would_not_give_is_found(good: tuple[StoredInstance, list[Effect]]) -> None:
    changed = rewritten(
        good[0], lambda seq, events: [e | {"input": "[0]"} if e["type"] == "TaskScheduled" else e for e in events]
    )
    assert findings([changed]) == []
    assert "does not replay" in replay_findings([changed], workload.registry)[0]
