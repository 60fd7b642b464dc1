"""Reading what an instance has recorded, also in former executions: those before it continued as new."""

from __future__ import annotations

from durable.client import Client
from durable.core.errors import InstanceNotFoundError
from durable.core.events import HistoryEvent
from durable.core.ids import earlier_execution_id, goes_back_to


async def read_history(client: Client, instance_id: str, execution_id: str | None) -> list[HistoryEvent]:
    """See ``InstanceHandle.history``."""
    current = (await client.record(instance_id)).execution_id
    if execution_id is None or execution_id == current:
        return [event for one in await client.checkpoints(instance_id, current) for event in one.events]
    # Only what is an execution of this start is looked up: any other text would become a part of a key of the store.
    checkpoints = await client.checkpoints(instance_id, execution_id) if goes_back_to(current, execution_id) else []
    if not checkpoints:
        raise InstanceNotFoundError(
            f"instance {instance_id!r} has no history of an execution {execution_id!r}: it never had that one, or "
            f"keeps it no more (setting keep_executions). It has {', '.join(await executions(client, instance_id))}"
        )
    return [event for one in checkpoints for event in one.events]


async def executions(client: Client, instance_id: str) -> list[str]:
    """See ``InstanceHandle.executions``."""
    current = (await client.record(instance_id)).execution_id
    kept = [current]
    while (earlier := earlier_execution_id(current, len(kept))) is not None:
        if not await client.backend.load(instance_id, earlier, limit=1):
            break
        kept.append(earlier)
    return kept
