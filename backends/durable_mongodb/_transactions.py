"""Taking part in the user's transactions, and running transactions for transactional activities.

Rule of this file: errors of the driver leave it as they are. Only ``with_transaction``, the user's or the one here, can
tell from their labels whether the whole is to be run again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from durable.backend import InstanceRecord, Message
from durable.core.ids import same_start
from durable_mongodb._documents import message_to_document, record_from_document, record_to_document
from durable_mongodb._driver import Connection
from durable_mongodb._errors import translated
from durable_mongodb._indexes import IS_WHOLE
from durable_mongodb._payloads import pieces

R = TypeVar("R")


class Joined:
    """A task hub's collections in a session's transaction. See :class:`durable.transactions.JoinedTransaction`."""

    def __init__(self, database: Any, hub: str, session: Any) -> None:
        self._instances = database[f"{hub}.instances"]
        self._inbox = database[f"{hub}.inbox"]
        self._payloads = database[f"{hub}.payloads"]
        self._meta = database[f"{hub}.meta"]
        self._session = session

    async def check(self, name: str) -> None:
        """Raises ValueError when this is not where the hub lives."""
        if await self._meta.find_one({"_id": "hub"}, session=self._session) is None:
            raise ValueError(
                f"the session's client does not reach task hub {name!r}: start the session with a client of the "
                "deployment that the hub's URL names"
            )

    async def get(self, instance_id: str) -> InstanceRecord | None:
        """The record as the transaction sees it."""
        found = await self._instances.find_one({"_id": instance_id} | IS_WHOLE, session=self._session)
        return None if found is None else record_from_document(found)

    async def create(self, record: InstanceRecord) -> InstanceRecord | None:
        """Insert a Pending record; the one that is there already, if another start has made one."""
        # Also one that a purge has begun to delete: until it is gone, its id is taken.
        found = await self._instances.find_one({"_id": record.instance_id}, session=self._session)
        if found is None:
            await self._instances.insert_one(record_to_document(record), session=self._session)
            return None
        existing = record_from_document(found)
        return None if same_start(existing.execution_id, record.execution_id) else existing

    async def send(self, message: Message) -> bool:
        """Insert a message; False when its id is known already."""
        if await self._inbox.find_one({"_id": message.message_id}, ["_id"], session=self._session) is not None:
            return False
        await self._inbox.insert_one(message_to_document(message), session=self._session)
        return True

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """Store large values; what another transaction has stored is the same."""
        for document in (piece for key, value in payloads.items() for piece in pieces(instance_id, key, value)):
            same = {"_id": document["_id"]}
            await self._payloads.update_one(same, {"$setOnInsert": document}, upsert=True, session=self._session)


async def join(connection: Connection, hub: str, session: Any) -> Joined:
    """See :meth:`durable.transactions.TransactionalBackend.join`."""
    if isinstance(session, ClientSession):
        raise TypeError("session must come from motor or from pymongo's AsyncMongoClient, not from its blocking client")
    client = getattr(session, "client", None)
    if client is None or not hasattr(session, "in_transaction"):
        raise TypeError(f"session must be a client session of motor or pymongo, not {type(session).__name__}")
    if not session.in_transaction:
        raise ValueError("session is not in a transaction: use session.start_transaction() or with_transaction()")
    connection.check_transactions()
    joined = Joined(client[connection.database_name], hub, session)
    await joined.check(hub)
    return joined


async def in_transaction(connection: Connection, hub: str, work: Callable[[Any, Joined], Awaitable[R]]) -> R:
    """See :meth:`durable.transactions.TransactionalBackend.in_transaction`."""
    connection.check_transactions()
    raised: Exception | None = None

    async def run(session: Any) -> R:
        nonlocal raised
        try:
            return await work(session, Joined(session.client[connection.database_name], hub, session))
        except Exception as error:
            raised = error
            raise

    async with connection.session() as session:
        try:
            return await connection.with_transaction(session, run)
        except PyMongoError as error:
            if error is raised:
                raise  # the work's own
            with translated():
                raise
        finally:
            raised = None  # its traceback holds this frame
