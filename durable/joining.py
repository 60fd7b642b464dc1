"""Starts and events as a part of the user's own transaction: they are there when his writes are.

Rule of this file: nothing is told to a worker here. What the transaction writes shows when it commits, and the store's
hints, or the next look at it, find it then.
"""

from __future__ import annotations

from typing import Any

from durable.backend import InstanceRecord, Message
from durable.client import Client, not_found
from durable.core.errors import InstanceExistsError, InstanceFinishedError
from durable.offload import store_large_input
from durable.transactions import JoinedTransaction, transactional


async def create_in(client: Client, record: InstanceRecord, on_conflict: str, *, session: Any) -> None:
    """Create the instance of a record in a session's transaction; see ``TaskHub.start``."""
    if on_conflict not in ("raise", "use_existing"):
        raise ValueError(f"on_conflict={on_conflict!r} purges what is there, which no transaction can take back")
    transaction = await _join(client, session, "start(session=)")
    existing = await transaction.create(await store_large_input(transaction, record))
    if existing is not None and on_conflict == "raise":
        raise InstanceExistsError(existing.instance_id, existing.status.value)


async def send_in(client: Client, session: Any, message: Message) -> None:
    """Send a message to an instance that runs, in a session's transaction; see ``InstanceHandle.raise_event``."""
    transaction = await _join(client, session, "raise_event(session=)")
    # Outside of the transaction first: it sees what was there when it began, and the instance may have ended since.
    record = await client.find(message.instance_id) or await transaction.get(message.instance_id)
    if record is None:
        raise not_found(message.instance_id)
    if record.status.is_terminal:
        raise InstanceFinishedError(message.instance_id, record.status.value)
    with client.traced(message, record) as traced:
        await transaction.send(traced)


async def _join(client: Client, session: Any, what: str) -> JoinedTransaction:
    return await transactional(client.backend, what).join(session)
