"""Debouncing: a start that has not begun gives way to a later one, which begins after another delay.

Rule of this file: no operation of the store of its own. A later start commits the first checkpoint of the execution
that waits, in which it continues as new with the later arguments. So of that and of the worker that begins it, one
is first, by the same unique insert as ever; a crash in between leaves what any continue-as-new leaves.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from durable.backend import Checkpoint, Commit, CommitOutcome, InstanceRecord
from durable.client import Client
from durable.core import events as ev
from durable.core.ids import earlier_execution_id, next_execution_id
from durable.offload import store_large
from durable.scheduling import scheduled_for


def can_be_pushed_back(existing: InstanceRecord, later: InstanceRecord) -> bool:
    """Whether a start of the same orchestrator still waits, as far as its record shows."""
    return scheduled_for(existing) is not None and existing.name == later.name


async def push_back(client: Client, existing: InstanceRecord, later: InstanceRecord, limit: int | None) -> bool:
    """Have an instance that has not begun begin when ``later`` was to, with its arguments.

    It begins no later than ``limit`` (microseconds) after the first start. False when it has begun, or somebody else
    has pushed it back meanwhile. Raises BackendUnavailable when the store did not confirm in time.
    """
    due_at = later.due_at or later.created_at
    if limit is not None:
        due_at = min(due_at, existing.created_at + limit)
    # At its creation it would count as due at once, for good.
    commit = _commit(client, existing, later.input, max(due_at, existing.created_at + 1))
    small = await client.insist(lambda: store_large(client.backend, commit))
    (outcome,) = await client.insist(lambda: client.backend.commit([small]))
    if outcome is not CommitOutcome.COMMITTED:
        return False
    await client.insist(lambda: client.backend.settle([small]))
    client.created(existing.instance_id)
    return True


def _commit(client: Client, existing: InstanceRecord, payload: str, due_at: int) -> Commit:
    """The turn that puts another execution in the place of the one that waits."""
    now = max(client.now(), existing.updated_at + 1)
    successor = next_execution_id(existing.execution_id)
    started = ev.ExecutionStarted(
        now,
        existing.instance_id,
        existing.execution_id,
        existing.name,
        existing.input,
        existing.version,
        existing.tags,
        parent=existing.parent,
    )
    turn = (
        started,
        ev.OrchestratorStarted(now),
        ev.ContinueAsNew(now, successor, payload),
        ev.OrchestratorCompleted(now),
    )
    rev = existing.rev + 1
    checkpoint = Checkpoint(existing.instance_id, existing.execution_id, 0, rev, f"debounce-{uuid4().hex}", turn)
    record = replace(existing, execution_id=successor, input=payload, due_at=due_at, updated_at=now, rev=rev)
    drop = earlier_execution_id(successor, client.settings.keep_executions + 1)
    return Commit(checkpoint, record, drops=() if drop is None else (drop,))
