"""MongoBackend: the storage port on MongoDB.

Rule of this file: what each operation writes and in which order; every single write is idempotent, because
any of them may be applied without an answer. The commit point is the unique insert of a
checkpoint's document; there are no multi-document transactions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Self, TypeVar

from durable.backend import (
    Annotation,
    BackendClosed,
    Checkpoint,
    Commit,
    CommitOutcome,
    Grouping,
    Hint,
    InstanceRecord,
    Message,
    Page,
    Query,
    Topology,
    Wakeup,
    WorkerInfo,
)
from durable.core.ids import check_hub_name, checkpoint_id
from durable.tasks import Claims, QueuedTask, QueueLimits
from durable_mongodb import _leases, _payloads, _purging, _queries, _settling, _tasks, _transactions
from durable_mongodb._documents import (
    message_from_document,
    note_changes,
    record_to_document,
    start_to_document,
)
from durable_mongodb._driver import DURABILITY, Connection, UpdateOne, client_class
from durable_mongodb._history import insert_checkpoints, read_checkpoints, stored_tokens
from durable_mongodb._hub import Hub
from durable_mongodb._indexes import INBOX_CONSUMED, INBOX_INSTANCE, IS_WAITING
from durable_mongodb._transactions import Joined
from durable_mongodb._url import MongoUrl, parse_url

R = TypeVar("R")


class MongoBackend:
    """A :class:`durable.backend.Backend` on a replica set, a sharded cluster or a standalone server.

    Belongs to the event loop that opens it. For sharding, shard ``instances`` by ``_id`` and
    ``history``, ``inbox`` and ``payloads`` by ``instance_id``.
    """

    settles_on_commit = False
    durability = DURABILITY

    def __init__(self, url: MongoUrl, hub: str) -> None:
        self._url = url
        self._name = check_hub_name(hub)
        self._hub: Hub | None = None

    @classmethod
    def from_url(cls, url: str, hub: str) -> Self:
        """A backend, not open, for ``mongodb://host:port/database?options``; the database is ``durable`` by default.

        ``driver=pymongo`` among the options takes pymongo's asyncio client instead of motor. Write concern and
        read preference of the URL have no effect. Raises ValueError for a bad URL or hub name, and
        ModuleNotFoundError, saying what to install, when there is no such driver.
        """
        parsed = parse_url(url)
        client_class(parsed.driver)
        return cls(parsed, hub)

    @classmethod
    async def list_hubs(cls, url: str) -> list[str]:
        """The task hubs in the database at ``url``. Raises as :meth:`from_url` and :meth:`open`."""
        connection = Connection(parse_url(url))
        try:
            names = await connection.collection_names()
        finally:
            await connection.close()
        return [name.removesuffix(".partitions") for name in names if name.endswith(".partitions")]

    async def open(self, partition_count: int) -> int:
        """See :meth:`durable.backend.Backend.open`."""
        if self._hub is not None:
            return await self._hub.set_up(partition_count)
        connection = Connection(self._url)
        try:
            await connection.connect()
            hub = Hub.on(connection, self._name)
            count = await hub.set_up(partition_count)
        except BaseException:
            await connection.close()
            raise
        self._hub = hub
        return count

    async def close(self) -> None:
        """See :meth:`durable.backend.Backend.close`."""
        if (hub := self._hub) is not None:
            self._hub = None
            try:
                await hub.watcher.close()
            finally:
                await hub.connection.close()

    def _open_hub(self) -> Hub:
        if self._hub is None:
            raise BackendClosed("the MongoDB backend is not open; use it between open() and close()")
        return self._hub

    # --- instances and history

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.create_instances`."""
        others = await self._open_hub().create([record_to_document(record) for record in records])
        return [others.get(position) for position in range(len(records))]

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        """See :meth:`durable.backend.Backend.commit`. One write command, two with ``create``."""
        hub = self._open_hub()
        creating = [commit.record for commit in commits if commit.create]
        others = await hub.create([start_to_document(record) for record in creating])
        barred = {creating[position].instance_id for position in others}
        written = [commit.checkpoint for commit in commits if commit.record.instance_id not in barred]
        taken = {_key(written[position]) for position in await insert_checkpoints(hub.history, written)}
        doubtful = [_key(commit.checkpoint) for commit in commits if commit.record.instance_id in barred]
        tokens = await stored_tokens(hub.history, [*taken, *doubtful])

        def outcome_of(commit: Commit) -> CommitOutcome:
            key = _key(commit.checkpoint)
            if key in tokens:
                own = tokens[key] == commit.checkpoint.token
                return CommitOutcome.COMMITTED if own else CommitOutcome.CONFLICT
            if commit.record.instance_id in barred:
                return CommitOutcome.EXISTS
            return CommitOutcome.CONFLICT if key in taken else CommitOutcome.COMMITTED

        return [outcome_of(commit) for commit in commits]

    async def settle(self, commits: Sequence[Commit]) -> None:
        """See :meth:`durable.backend.Backend.settle`."""
        await _settling.settle(self._open_hub(), commits)

    async def load(
        self, instance_id: str, execution_id: str, *, from_seq: int = 0, limit: int = 100
    ) -> Sequence[Checkpoint]:
        """See :meth:`durable.backend.Backend.load`."""
        return await read_checkpoints(self._open_hub().history, instance_id, execution_id, from_seq, limit)

    async def get(self, instance_ids: Sequence[str]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.get`."""
        found = await self._open_hub().whole_records(instance_ids)
        return [found.get(instance_id) for instance_id in instance_ids]

    async def query(self, query: Query) -> Page:
        """See :meth:`durable.backend.Backend.query`. Raises ValueError for a ``continuation`` that no page gave."""
        return await _queries.read_page(self._open_hub().instances, query)

    async def count(self, query: Query, by: Grouping) -> Mapping[str, int]:
        """See :meth:`durable.backend.Backend.count`."""
        return await _queries.count(self._open_hub().instances, query, by)

    async def annotate(self, annotations: Sequence[Annotation]) -> None:
        """See :meth:`durable.backend.Backend.annotate`."""
        await self._open_hub().instances.write_each(
            [
                UpdateOne({"_id": note.instance_id, "rev": note.rev}, {"$set": note_changes(note)})
                for note in annotations
            ]
        )

    async def purge(self, instance_ids: Sequence[str]) -> int:
        """See :meth:`durable.backend.Backend.purge`."""
        return await _purging.purge(self._open_hub(), instance_ids)

    async def set_hold(self, instance_id: str, reason: str | None) -> bool:
        """See :meth:`durable.backend.Backend.set_hold`."""
        return await _purging.set_hold(self._open_hub(), instance_id, reason)

    async def expired(self, before: int, limit: int) -> Sequence[str]:
        """See :meth:`durable.backend.Backend.expired`."""
        return await _queries.find_expired(self._open_hub().instances, before, limit)

    # --- messages

    async def send(self, messages: Sequence[Message]) -> None:
        """See :meth:`durable.backend.Backend.send`."""
        await self._open_hub().send(messages)

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        """See :meth:`durable.backend.Backend.receive`."""
        where = {"instance_id": {"$in": list(instance_ids)}} | IS_WAITING
        order = [("sent_at", 1), ("_id", 1)]
        found = await self._open_hub().inbox.find(where, sort=order, limit=limit or 0, index=INBOX_INSTANCE)
        return [message_from_document(document) for document in found]

    async def consume(self, messages: Sequence[Message], at: int) -> None:
        """See :meth:`durable.backend.Backend.consume`."""
        await self._open_hub().consume([message.message_id for message in messages], at)

    # --- finding work

    async def runnable(
        self,
        partitions: Collection[int],
        until: int,
        *,
        include_busy: bool = True,
        after: str | None = None,
        limit: int = 1000,
    ) -> Sequence[Wakeup]:
        """See :meth:`durable.backend.Backend.runnable`."""
        hub = self._open_hub()
        return await _queries.find_runnable(
            hub.instances, hub.inbox, partitions, until, include_busy=include_busy, after=after, limit=limit
        )

    def watch(self) -> AsyncIterator[Hint]:
        """See :meth:`durable.backend.Backend.watch`. Own changes are hinted at too."""
        return self._open_hub().watcher.hints()

    # --- workers and leases

    async def heartbeat(self, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        """See :meth:`durable.backend.Backend.heartbeat`."""
        hub = self._open_hub()
        return await _leases.heartbeat(hub.workers, hub.partitions, worker, now, ttl)

    async def topology(self, now: int) -> Topology:
        """See :meth:`durable.backend.Backend.topology`."""
        hub = self._open_hub()
        return await _leases.topology(hub.workers, hub.partitions, now)

    async def acquire_partitions(
        self, worker_id: str, partitions: Collection[int], now: int, ttl: int, *, dead: Collection[str] = ()
    ) -> Collection[int]:
        """See :meth:`durable.backend.Backend.acquire_partitions`."""
        return await _leases.acquire(self._open_hub().partitions, worker_id, partitions, now, ttl, dead)

    async def release_partitions(self, worker_id: str, partitions: Collection[int]) -> None:
        """See :meth:`durable.backend.Backend.release_partitions`."""
        await _leases.release(self._open_hub().partitions, worker_id, partitions)

    async def remove_worker(self, worker_id: str) -> None:
        """See :meth:`durable.backend.Backend.remove_worker`."""
        hub = self._open_hub()
        await _leases.remove_worker(hub.workers, hub.partitions, worker_id)

    # --- activity queues

    async def offer_tasks(self, tasks: Sequence[QueuedTask]) -> None:
        """See :meth:`durable.tasks.QueueBackend.offer_tasks`."""
        await _tasks.offer(self._open_hub(), tasks)

    async def claim_tasks(
        self,
        queue: str,
        limits: QueueLimits,
        worker_id: str,
        now: int,
        ttl: int,
        *,
        names: Collection[str],
        limit: int,
        holding: Collection[str] = (),
    ) -> Claims:
        """See :meth:`durable.tasks.QueueBackend.claim_tasks`."""
        return await _tasks.claim(self._open_hub(), queue, limits, worker_id, now, ttl, names, limit, holding)

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        """See :meth:`durable.tasks.QueueBackend.renew_tasks`."""
        return await _tasks.renew(self._open_hub(), queue, worker_id, task_ids, now, ttl)

    async def release_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.release_tasks`."""
        await _tasks.release(self._open_hub(), queue, worker_id, task_ids)

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.finish_tasks`."""
        await _tasks.finish(self._open_hub(), queue, worker_id, task_ids)

    async def withdraw_tasks(self, queue: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.withdraw_tasks`."""
        await _tasks.withdraw(self._open_hub(), queue, task_ids)

    # --- transactions

    async def join(self, session: Any) -> Joined:
        """See :meth:`durable.transactions.TransactionalBackend.join`. The transaction's write concern is the user's:
        with ``j=True`` what it started survives a crash of the server.
        """
        return await _transactions.join(self._open_hub().connection, self._name, session)

    async def in_transaction(self, work: Callable[[Any, Joined], Awaitable[R]]) -> R:
        """See :meth:`durable.transactions.TransactionalBackend.in_transaction`."""
        return await _transactions.in_transaction(self._open_hub().connection, self._name, work)

    # --- large values and upkeep

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See :meth:`durable.backend.Backend.put_payloads`."""
        await _payloads.put(self._open_hub().payloads, instance_id, payloads)

    async def get_payloads(self, instance_id: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """See :meth:`durable.backend.Backend.get_payloads`."""
        return await _payloads.get(self._open_hub().payloads, instance_id, keys)

    async def sweep(self, before: int) -> int:
        """See :meth:`durable.backend.Backend.sweep`."""
        hub = self._open_hub()
        tombstones = await hub.inbox.delete({"consumed_at": {"$gt": 0, "$lt": before}}, index=INBOX_CONSUMED)
        return tombstones + await hub.workers.delete({"expires_at": {"$lt": before}})


def _key(checkpoint: Checkpoint) -> str:
    return checkpoint_id(checkpoint.instance_id, checkpoint.execution_id, checkpoint.seq)
