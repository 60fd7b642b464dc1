"""Strict replay of stored histories: does today's code still decide all that is recorded, inputs included?"""

from __future__ import annotations

from collections.abc import Iterable

from durable.core.codec import event_from_dict
from durable.core.errors import NonDeterminismError
from durable.core.events import ExecutionStarted
from durable.core.replay import Orchestration
from durable.core.turns import split_turns
from durable.registry import Registry
from durable.worker.services import WorkerServices
from tests.chaos.checker import StoredInstance


def replay_findings(instances: Iterable[StoredInstance], registry: Registry) -> list[str]:
    """What a strict replay of each history complains about."""
    found = []
    for instance in instances:
        try:
            replay(instance, registry)
        except (NonDeterminismError, ValueError) as error:
            found.append(f"{instance.instance_id}: does not replay: {error}")
    return found


def replay(instance: StoredInstance, registry: Registry) -> None:
    """Run the instance's code over its history. Raises NonDeterminismError or ValueError where they disagree."""
    checkpoints = sorted(instance.checkpoints, key=lambda checkpoint: checkpoint.seq)
    history = [event_from_dict(event) for checkpoint in checkpoints for event in checkpoint.events]
    if not history or not isinstance(history[0], ExecutionStarted):
        raise ValueError("the history does not begin with ExecutionStarted")
    definition = registry.find_orchestrator(history[0].name)
    orchestration = Orchestration(history[0], definition.begin, WorkerServices(registry), strict=True)
    try:
        for _ in orchestration.replay(split_turns(history)):
            pass
    finally:
        orchestration.discard()
