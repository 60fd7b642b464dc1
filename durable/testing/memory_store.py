"""MemoryStore: the database that MemoryBackend plays, and the rules for what it keeps.

Rule of this file: no port operations; only data and the few steps that several operations share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter

from durable.backend import Checkpoint, Hint, InstanceRecord, Message, PartitionLease, Start, WorkerInfo
from durable.core.ids import same_start
from durable.testing.memory_tasks import StoredQueues

_MAX_HINTS = 1000
_FIXED_FIELDS = ("name", "partition", "created_at", "version", "tags", "parent", "hold")
_fixed = attrgetter(*_FIXED_FIELDS)


class Watcher:
    """One running ``watch``: the hints that ``owner`` has not given out yet."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.closed = False
        self._changed = asyncio.Event()
        self._hints: dict[tuple[str | None, str | None], None] = {}  # of an instance and a message
        self._queues: dict[str, None] = {}

    def add_queue(self, queue: str) -> None:
        self._queues[queue] = None
        self._changed.set()

    def add(self, changes: Iterable[tuple[str, str | None]]) -> None:
        self._hints.update(dict.fromkeys(changes))
        if len(self._hints) > _MAX_HINTS:
            self._hints = {(None, None): None}
        self._changed.set()

    def close(self) -> None:
        self.closed = True
        self._changed.set()

    async def take(self) -> list[Hint]:
        await self._changed.wait()
        self._changed.clear()
        hints = [Hint(*change) for change in self._hints]
        hints += [Hint(None, queue=queue) for queue in self._queues]
        self._hints.clear()
        self._queues.clear()
        return hints


@dataclass(slots=True)
class Delivery:
    """A message in the store; ``consumed_at`` makes it a tombstone."""

    message: Message
    consumed_at: int | None = None


class MemoryStore:
    """What a database would keep for one task hub. Lives as long as somebody refers to it."""

    def __init__(self) -> None:
        self.partition_count = 0
        self.records: dict[str, InstanceRecord] = {}
        self.live: set[str] = set()
        self.history: dict[str, dict[tuple[str, int], Checkpoint]] = {}
        self.messages: dict[str, Delivery] = {}
        self.inbox: dict[str, dict[str, Message]] = {}
        self.payloads: dict[str, dict[str, bytes]] = {}
        self.leases: dict[int, PartitionLease] = {}
        self.workers: dict[str, tuple[WorkerInfo, int]] = {}
        self.watchers: list[Watcher] = []
        self.queues = StoredQueues()

    def put_record(self, record: InstanceRecord) -> None:
        """Store a record, and keep ``live`` to the ids of those that are not terminal."""
        self.records[record.instance_id] = record
        if record.status.is_terminal:
            self.live.discard(record.instance_id)
        else:
            self.live.add(record.instance_id)

    def create(self, record: InstanceRecord) -> InstanceRecord | None:
        """Store a record whose id is free. The answer is the record of another start that holds the id, or None."""
        stored = self.records.get(record.instance_id)
        if stored is None:
            self.put_record(record)
        return stored if stored is not None and not same_start(stored.execution_id, record.execution_id) else None

    def start(self, start: Start) -> None:
        """Create another instance, or send what is to be sent when its id is taken."""
        if self.create(start.record) is not None and start.otherwise is not None:
            self.put_message(start.otherwise)

    def drop(self, instance_id: str, execution_id: str) -> None:
        """Delete the history of one execution."""
        history = self.history.get(instance_id, {})
        for key in [key for key in history if key[0] == execution_id]:
            del history[key]

    def put_message(self, message: Message) -> None:
        """Store a message unless its id is known, as a tombstone too."""
        if message.message_id not in self.messages:
            self.messages[message.message_id] = Delivery(message)
            self.inbox.setdefault(message.instance_id, {})[message.message_id] = message

    def consume(self, message_id: str, at: int) -> None:
        """Turn a message into a tombstone; nothing when it is one or is not there."""
        delivery = self.messages.get(message_id)
        if delivery is None or delivery.consumed_at is not None:
            return
        delivery.consumed_at = at
        instance_id = delivery.message.instance_id
        inbox = self.inbox[instance_id]
        del inbox[message_id]
        if not inbox:
            del self.inbox[instance_id]

    def delete_instance(self, instance_id: str) -> None:
        """Delete an instance with all that hangs on it, except its messages' ids."""
        self.history.pop(instance_id, None)
        self.payloads.pop(instance_id, None)
        self.inbox.pop(instance_id, None)
        self.live.discard(instance_id)
        del self.records[instance_id]


def start_of(record: InstanceRecord) -> InstanceRecord:
    """The start message of an instance that begins with its first checkpoint; due, so a crash leaves a trigger (R1)."""
    return InstanceRecord(
        record.instance_id,
        record.execution_id,
        record.name,
        record.partition,
        record.created_at,
        record.created_at,
        record.input,
        version=record.version,
        tags=record.tags,
        due_at=record.created_at,
        parent=record.parent,
    )


def successor_of(stored: InstanceRecord, record: InstanceRecord) -> InstanceRecord:
    """``record``, with the fields that no checkpoint changes as they are stored."""
    fixed = _fixed(stored)
    return record if _fixed(record) == fixed else replace(record, **dict(zip(_FIXED_FIELDS, fixed, strict=True)))
