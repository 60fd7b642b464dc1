"""Forking: a new instance with the beginning of another one's history, written by the client.

Rule of this file: the fork is there with its history, or not at all. Its history is one checkpoint; a store that
settles apart from the commit gets it before the record that makes it visible, so that nobody begins it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from durable.backend import Checkpoint, Commit, CommitOutcome, InstanceRecord
from durable.client import Client
from durable.core.errors import InstanceExistsError
from durable.core.events import ForkOrigin
from durable.core.forking import ForkPoint, fork_point, forked_history
from durable.core.ids import is_entity
from durable.core.state import InstanceState
from durable.offload import store_large, store_large_input
from durable.outbox import Outgoing
from durable.starting import RESERVED_TAGS

_TAG = f"{RESERVED_TAGS}forked_from"


async def fork(
    client: Client, instance_id: str, *, from_event: int | None, version: str | None, as_id: str | None
) -> str:
    """Fork an instance and return the id of the fork; see ``InstanceHandle.fork``."""
    if is_entity(instance_id):
        raise ValueError(f"{instance_id!r} is an entity; only orchestrations can be forked")
    former = await client.record(instance_id)
    checkpoints = await client.checkpoints(instance_id, former.execution_id)
    try:
        point = fork_point([checkpoint.events for checkpoint in checkpoints], from_event)
    except ValueError as error:
        raise ValueError(f"instance {instance_id!r} cannot be forked: {error}") from None
    origin = ForkOrigin(instance_id, former.execution_id, point.number)
    pending = client.new_record(
        former.name, former.input, instance_id=as_id, version=version, tags=_tagged(former, origin)
    )
    pending = replace(pending, version=version or former.version)
    existing = await _write(client, pending, _commit(client, pending, point, origin))
    if existing is not None:
        raise InstanceExistsError(existing.instance_id, existing.status.value)
    client.created(pending.instance_id)
    return pending.instance_id


def _commit(client: Client, pending: InstanceRecord, point: ForkPoint, origin: ForkOrigin) -> Commit:
    """The first checkpoint of the fork, and what follows from it."""
    instance_id, execution_id = pending.instance_id, pending.execution_id
    copied, turn = forked_history(point, origin, instance_id, execution_id, pending.version, client.now())
    state = InstanceState()
    state.apply_all(copied)
    out = Outgoing(pending, execution_id, 0, client.partition_count)
    out.take(turn[0], len(copied) + 1, state)
    state.apply_all(turn)
    record = replace(
        pending,
        updated_at=state.last_timestamp,
        status=state.status,
        rev=1,
        due_at=state.due_at,
        custom_status=state.custom_status,
    )
    # Recovered once by its own account: so the first delivery of what is outstanding counts as the first.
    checkpoint = Checkpoint(instance_id, execution_id, 0, 1, f"fork-{execution_id}", (*copied, *turn), recoveries=1)
    return Commit(checkpoint, record, messages=tuple(out.messages), starts=tuple(out.starts))


async def _write(client: Client, pending: InstanceRecord, commit: Commit) -> InstanceRecord | None:
    """Create the fork; None when it is there, else the record of another start that holds its id."""
    backend = client.backend
    (existing,) = await client.insist(lambda: backend.get([pending.instance_id]))
    if existing is not None:
        return existing
    small = await client.insist(lambda: store_large(backend, commit))
    small = replace(small, create=backend.settles_on_commit)
    (outcome,) = await client.insist(lambda: backend.commit([small]))
    if outcome is not CommitOutcome.COMMITTED:
        return await client.record(pending.instance_id)
    if backend.settles_on_commit:
        return None
    start = await client.insist(lambda: store_large_input(backend, pending))
    (existing,) = await client.insist(lambda: backend.create_instances([start]))
    if existing is None:
        await client.insist(lambda: backend.settle([small]))
    return existing


def _tagged(former: InstanceRecord, origin: ForkOrigin) -> Mapping[str, str]:
    # No id holds a slash.
    return {**(former.tags or {}), _TAG: f"{origin.instance_id}/{origin.execution_id}/{origin.event}"}


def origin_of(record: InstanceRecord) -> ForkOrigin | None:
    """Where an instance was forked from; None: it was not."""
    text = (record.tags or {}).get(_TAG)
    if text is None:
        return None
    instance_id, execution_id, event = text.split("/")
    return ForkOrigin(instance_id, execution_id, int(event))


def own_tags(record: InstanceRecord) -> dict[str, str]:
    """The tags of an instance without those of the library."""
    return {name: text for name, text in (record.tags or {}).items() if not name.startswith(RESERVED_TAGS)}
