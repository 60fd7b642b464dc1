"""SqliteBackend: the storage port on one SQLite file.

Rule of this file: which connection an operation runs on, and nothing about rows. Writes go through the writer's
transactions, reads through a connection of their own, so that they do not wait for an fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

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
from durable.tasks import Claims, QueuedTask, QueueLimits
from durable_sqlite._commits import BatchRows, CommitStatements
from durable_sqlite._instances import InstanceStatements
from durable_sqlite._leases import LeaseStatements
from durable_sqlite._queries import QueryStatements
from durable_sqlite._rows import message_to_row, record_to_row
from durable_sqlite._schema import (
    DURABILITY,
    check_table_prefix,
    connect_reader,
    connect_writer,
    list_hubs,
    prepare_hub,
)
from durable_sqlite._tasks import ClaimRequest, TaskStatements, task_to_row
from durable_sqlite._threads import ConnectionThread
from durable_sqlite._url import Location, parse_url
from durable_sqlite._wakeups import WakeupStatements


@dataclass(frozen=True, slots=True)
class _Connections:
    writer: ConnectionThread
    reader: ConnectionThread


class SqliteBackend:
    """A :class:`durable.backend.Backend` on a SQLite file, which several hubs and processes may share.

    It belongs to the event loop that opened it. Writes are on disk (WAL, ``synchronous=FULL``) before they are
    acknowledged. BackendUnavailable is raised for a lock that is not given in time, an I/O error or a full disk.
    """

    settles_on_commit = True
    durability = DURABILITY

    def __init__(self, location: Location, hub: str) -> None:
        self._location = location
        self._hub = check_table_prefix(hub)
        self._commits = CommitStatements(hub)
        self._instances = InstanceStatements(hub)
        self._queries = QueryStatements(hub)
        self._wakeups = WakeupStatements(hub)
        self._leases = LeaseStatements(hub)
        self._tasks = TaskStatements(hub)
        self._connections: _Connections | None = None

    @classmethod
    def from_url(cls, url: str, hub: str) -> Self:
        """A backend for ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

        ``?timeout=`` sets for how many seconds (5) a lock of another process is waited for. Raises ValueError for any
        other URL or a bad hub name.
        """
        return cls(parse_url(url), hub)

    @classmethod
    async def list_hubs(cls, url: str) -> list[str]:
        """The task hubs in the file at ``url``; none when there is no file; it makes none. Raises as :meth:`open`."""
        location = parse_url(url)
        return await asyncio.to_thread(list_hubs, location)

    async def open(self, partition_count: int) -> int:
        """See :meth:`durable.backend.Backend.open`. Raises BackendError for a file that it cannot use."""
        if partition_count < 1:
            raise ValueError(f"partition_count must be at least 1, not {partition_count}")
        if self._connections is not None:
            raise RuntimeError("the SQLite backend is open already")
        name = f"durable-sqlite-{self._hub}"
        writer = ConnectionThread(f"{name}-writer", partial(connect_writer, self._location))
        reader = ConnectionThread(f"{name}-reader", partial(connect_reader, self._location))
        try:
            await writer.start()
            count = await writer.write(lambda connection: prepare_hub(connection, self._hub, partition_count))
            await reader.start()
        except BaseException:
            writer.request_stop()
            reader.request_stop()
            raise
        self._connections = _Connections(writer, reader)
        return count

    async def close(self) -> None:
        """See :meth:`durable.backend.Backend.close`. The last one to close moves the write-ahead log into the file."""
        connections, self._connections = self._connections, None
        if connections is not None:
            try:
                await connections.reader.stop()
            finally:  # after the reader: of two connections that close at once, neither finds itself the last one
                await connections.writer.stop()

    # --- instances and history

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.create_instances`."""
        rows = [record_to_row(record) for record in records]
        return await self._writer.write(lambda connection: self._commits.create(connection, records, rows))

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        """See :meth:`durable.backend.Backend.commit`. Does the work of ``settle`` too."""
        return await self._writer.write_prepared(partial(BatchRows.of, commits), self._commits.commit)

    async def settle(self, commits: Sequence[Commit]) -> None:
        """See :meth:`durable.backend.Backend.settle`: ``commit`` has done it."""
        self._open()

    async def load(
        self, instance_id: str, execution_id: str, *, from_seq: int = 0, limit: int = 100
    ) -> Sequence[Checkpoint]:
        """See :meth:`durable.backend.Backend.load`."""
        return await self._reader.run(
            lambda connection: self._instances.load(connection, instance_id, execution_id, from_seq, limit)
        )

    async def get(self, instance_ids: Sequence[str]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.get`."""
        return await self._reader.run(lambda connection: self._instances.get(connection, instance_ids))

    async def query(self, query: Query) -> Page:
        """See :meth:`durable.backend.Backend.query`. Raises ValueError for a ``continuation`` that no page gave."""
        return await self._reader.run(lambda connection: self._queries.query(connection, query))

    async def count(self, query: Query, by: Grouping) -> Mapping[str, int]:
        """See :meth:`durable.backend.Backend.count`."""
        return await self._reader.run(lambda connection: self._queries.count(connection, query, by))

    async def annotate(self, annotations: Sequence[Annotation]) -> None:
        """See :meth:`durable.backend.Backend.annotate`."""
        await self._writer.write(lambda connection: self._instances.annotate(connection, annotations))

    async def purge(self, instance_ids: Sequence[str]) -> int:
        """See :meth:`durable.backend.Backend.purge`."""
        return await self._writer.write(lambda connection: self._instances.purge(connection, instance_ids))

    async def set_hold(self, instance_id: str, reason: str | None) -> bool:
        """See :meth:`durable.backend.Backend.set_hold`."""
        return await self._writer.write(lambda connection: self._instances.set_hold(connection, instance_id, reason))

    async def expired(self, before: int, limit: int) -> Sequence[str]:
        """See :meth:`durable.backend.Backend.expired`."""
        return await self._reader.run(lambda connection: self._queries.expired(connection, before, limit))

    # --- messages

    async def send(self, messages: Sequence[Message]) -> None:
        """See :meth:`durable.backend.Backend.send`."""
        rows = [message_to_row(message) for message in messages]
        await self._writer.write(lambda connection: self._commits.send(connection, rows))

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        """See :meth:`durable.backend.Backend.receive`."""
        return await self._reader.run(lambda connection: self._wakeups.receive(connection, instance_ids, limit))

    async def consume(self, messages: Sequence[Message], at: int) -> None:
        """See :meth:`durable.backend.Backend.consume`."""
        rows = [(at, message.instance_id, message.message_id) for message in messages]
        await self._writer.write(lambda connection: self._commits.consume(connection, rows))

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
        return await self._reader.run(
            lambda connection: self._wakeups.runnable(
                connection, partitions, until, include_busy=include_busy, after=after, limit=limit
            )
        )

    async def watch(self) -> AsyncIterator[Hint]:
        """See :meth:`durable.backend.Backend.watch`. Asks the file every 50 ms whether another process has written."""
        writer = self._writer
        while not writer.stopping and await writer.wait_for_change():
            yield Hint(None)

    # --- workers and leases

    async def heartbeat(self, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        """See :meth:`durable.backend.Backend.heartbeat`."""
        return await self._writer.write(lambda connection: self._leases.heartbeat(connection, worker, now, ttl))

    async def topology(self, now: int) -> Topology:
        """See :meth:`durable.backend.Backend.topology`."""
        return await self._reader.run(lambda connection: self._leases.topology(connection, now))

    async def acquire_partitions(
        self, worker_id: str, partitions: Collection[int], now: int, ttl: int, *, dead: Collection[str] = ()
    ) -> Collection[int]:
        """See :meth:`durable.backend.Backend.acquire_partitions`."""
        return await self._writer.write(
            lambda connection: self._leases.acquire(connection, worker_id, partitions, now, ttl, dead)
        )

    async def release_partitions(self, worker_id: str, partitions: Collection[int]) -> None:
        """See :meth:`durable.backend.Backend.release_partitions`."""
        await self._writer.write(lambda connection: self._leases.release(connection, worker_id, partitions))

    async def remove_worker(self, worker_id: str) -> None:
        """See :meth:`durable.backend.Backend.remove_worker`."""
        await self._writer.write(lambda connection: self._leases.remove(connection, worker_id))

    # --- activity queues

    async def offer_tasks(self, tasks: Sequence[QueuedTask]) -> None:
        """See :meth:`durable.tasks.QueueBackend.offer_tasks`."""
        rows = [task_to_row(task) for task in tasks]
        await self._writer.write(lambda connection: self._tasks.offer(connection, rows))

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
        request = ClaimRequest(queue, limits, worker_id, now, ttl, frozenset(names), limit, frozenset(holding))
        nothing = await self._reader.run(lambda connection: self._tasks.look(connection, request))
        if nothing is not None:
            return nothing
        return await self._writer.write(lambda connection: self._tasks.claim(connection, request))

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        """See :meth:`durable.tasks.QueueBackend.renew_tasks`."""
        return await self._writer.write(
            lambda connection: self._tasks.renew(connection, queue, worker_id, task_ids, now, ttl)
        )

    async def release_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.release_tasks`."""
        await self._writer.write(lambda connection: self._tasks.release(connection, queue, worker_id, task_ids))

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.finish_tasks`."""
        await self._writer.write(lambda connection: self._tasks.finish(connection, queue, worker_id, task_ids))

    async def withdraw_tasks(self, queue: str, task_ids: Sequence[str]) -> None:
        """See :meth:`durable.tasks.QueueBackend.withdraw_tasks`."""
        await self._writer.write(lambda connection: self._tasks.withdraw(connection, queue, task_ids))

    # --- large values and upkeep

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See :meth:`durable.backend.Backend.put_payloads`."""
        await self._writer.write(lambda connection: self._instances.put_payloads(connection, instance_id, payloads))

    async def get_payloads(self, instance_id: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """See :meth:`durable.backend.Backend.get_payloads`."""
        return await self._reader.run(lambda connection: self._instances.get_payloads(connection, instance_id, keys))

    async def sweep(self, before: int) -> int:
        """See :meth:`durable.backend.Backend.sweep`."""
        total, more = 0, True
        while more:
            swept, more = await self._writer.write(lambda connection: self._wakeups.sweep(connection, before))
            total += swept
        return total

    # --- the connections

    @property
    def _writer(self) -> ConnectionThread:
        return self._open().writer

    @property
    def _reader(self) -> ConnectionThread:
        return self._open().reader

    def _open(self) -> _Connections:
        if self._connections is None:
            raise BackendClosed("the SQLite backend is not open; use it between open() and close()")
        return self._connections
