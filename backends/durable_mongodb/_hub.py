"""One task hub's collections on an open connection, and the writes that several operations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from durable.backend import InstanceRecord, Message
from durable.core.ids import same_start
from durable_mongodb import _leases
from durable_mongodb._documents import message_to_document, record_from_document
from durable_mongodb._driver import Collection, Connection, Document
from durable_mongodb._indexes import BY_ID, INDEXES, IS_WAITING, IS_WHOLE, LAYOUT
from durable_mongodb._watch import Watcher

_MAX_MARKED = 500
"""Messages marked by one command: one of many thousands could outlast the time that an answer may take."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The collections of a task hub; each is named ``<hub>.<field>``."""

    connection: Connection
    watcher: Watcher
    instances: Collection
    history: Collection
    inbox: Collection
    partitions: Collection
    workers: Collection
    payloads: Collection
    tasks: Collection
    queues: Collection
    meta: Collection

    @classmethod
    def on(cls, connection: Connection, name: str) -> Self:
        """The hub of that name."""
        fields = ("instances", "history", "inbox", "partitions", "workers", "payloads", "tasks", "queues", "meta")
        watcher = Watcher(connection, name)
        return cls(connection, watcher, *(connection.collection(f"{name}.{field}") for field in fields))

    async def set_up(self, partition_count: int) -> int:
        """Create what is missing; return the partition count, which the first one to come has fixed."""
        ready = f"layout-{LAYOUT}"
        known = await self._meta()
        if ready not in known:
            for collection, indexes in INDEXES.items():
                await getattr(self, collection).create_indexes(indexes)
            await self.meta.insert([{"_id": "hub", "partition_count": partition_count}])
            known = await self._meta()
            await _leases.create_partitions(self.partitions, int(known["hub"]["partition_count"]))
            await self.meta.insert([{"_id": ready}])
        return int(known["hub"]["partition_count"])

    async def _meta(self) -> dict[str, Document]:
        return {document["_id"]: document for document in await self.meta.find({})}

    async def records(self, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
        """The records that hold these ids, also those of instances that a purge has begun to delete."""
        return await self._records({"_id": {"$in": list(instance_ids)}})

    async def whole_records(self, instance_ids: Sequence[str]) -> dict[str, InstanceRecord]:
        """The records of those of these instances that are there."""
        return await self._records({"_id": {"$in": list(instance_ids)}} | IS_WHOLE)

    async def _records(self, where: Document) -> dict[str, InstanceRecord]:
        found = await self.instances.find(where, index=BY_ID)
        return {document["_id"]: record_from_document(document) for document in found}

    async def create(self, documents: Sequence[Document]) -> dict[int, InstanceRecord]:
        """Insert the documents of new instances; return, by position, what another start has under that id."""
        others: dict[int, InstanceRecord] = {}
        waiting = list(range(len(documents)))
        while waiting:
            taken = [waiting[place] for place in await self.instances.insert([documents[each] for each in waiting])]
            found = await self.records([documents[each]["_id"] for each in taken]) if taken else {}
            for each in taken:
                record = found.get(documents[each]["_id"])
                if record is not None and not same_start(record.execution_id, documents[each]["execution_id"]):
                    others[each] = record
            # Neither inserted nor found: purged in between, and the id is free again.
            waiting = [each for each in taken if documents[each]["_id"] not in found]
        return others

    async def send(self, messages: Sequence[Message]) -> None:
        """Insert the messages whose id is new."""
        await self.inbox.insert([message_to_document(message) for message in messages])

    async def consume(self, message_ids: Sequence[str], at: int) -> None:
        """Make tombstones of those of these messages that wait."""
        ordered = sorted(set(message_ids))
        for start in range(0, len(ordered), _MAX_MARKED):
            where = {"_id": {"$in": ordered[start : start + _MAX_MARKED]}} | IS_WAITING
            await self.inbox.update(where, {"$set": {"consumed_at": at}}, index=BY_ID)
