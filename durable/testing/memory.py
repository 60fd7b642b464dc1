"""MemoryBackend: the storage port in plain dicts; the reference that says what the port means.

Rule of this file: small and obviously right. A :class:`MemoryStore` plays the database and
outlives the backends on it, so that a test has its restart: close one backend, open another on
the same store. Several backends on one store play several processes. All of
them belong to one event loop at a time; each operation runs in one step of it, which makes it atomic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Self
from urllib.parse import urlsplit

from durable.backend import (
    Annotation,
    BackendClosed,
    Checkpoint,
    Commit,
    CommitOutcome,
    Hint,
    InstanceRecord,
    Message,
    Page,
    PartitionLease,
    Query,
    Topology,
    Wakeup,
    WorkerInfo,
)
from durable.backend_queries import Grouping, check_grouping, continuation_of, position_of
from durable.core.ids import check_hub_name, same_start
from durable.testing.memory_store import MemoryStore, Watcher, start_of, successor_of
from durable.testing.memory_tasks import MemoryTasks, StoredQueues

_place = attrgetter("created_at", "instance_id")


_shared: dict[tuple[str, str], MemoryStore] = {}


@dataclass(eq=False)
class MemoryBackend(MemoryTasks):
    """A :class:`durable.backend.Backend` on a :class:`MemoryStore`, its own by default.

    ``settles_on_commit`` False makes the engine go through ``settle``, as MongoDB does;
    True does both steps at once, as SQLite does.
    """

    store: MemoryStore = field(default_factory=MemoryStore)
    settles_on_commit: bool = False
    _opened: bool = field(default=False, init=False)

    @classmethod
    def from_url(cls, url: str, hub: str) -> Self:
        """A backend for ``memory://`` (a store of its own) or ``memory://name`` (one store per name and hub).

        A named store lives as long as the process. Raises ValueError for any other URL or a bad hub name.
        """
        check_hub_name(hub)
        parts = urlsplit(url)
        if parts.scheme != "memory" or parts.path or parts.query or parts.fragment:
            raise ValueError(f"not a memory URL: {url!r}; write memory:// or memory://name")
        return cls(_shared.setdefault((parts.netloc, hub), MemoryStore()) if parts.netloc else MemoryStore())

    async def open(self, partition_count: int) -> int:
        """See :meth:`durable.backend.Backend.open`."""
        self.store.partition_count = self.store.partition_count or partition_count
        self._opened = True
        return self.store.partition_count

    async def close(self) -> None:
        """See :meth:`durable.backend.Backend.close`."""
        self._opened = False
        for watcher in self.store.watchers:
            if watcher.owner is self:
                watcher.close()

    # --- instances and history

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.create_instances`."""
        store = self._open_store()
        answers = [store.create(record) for record in records]
        self._hint(record.instance_id for record in records)
        return answers

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        """See :meth:`durable.backend.Backend.commit`."""
        store = self._open_store()
        outcomes = [self._commit_one(store, commit) for commit in commits]
        if self.settles_on_commit:
            done = zip(commits, outcomes, strict=True)
            self._settle(store, [commit for commit, outcome in done if outcome is CommitOutcome.COMMITTED])
        return outcomes

    def _commit_one(self, store: MemoryStore, commit: Commit) -> CommitOutcome:
        checkpoint = commit.checkpoint
        instance_id, key = checkpoint.instance_id, (checkpoint.execution_id, checkpoint.seq)
        stored = store.history.get(instance_id, {}).get(key)
        if stored is not None:
            return CommitOutcome.COMMITTED if stored.token == checkpoint.token else CommitOutcome.CONFLICT
        if commit.create and store.create(start_of(commit.record)) is not None:
            return CommitOutcome.EXISTS
        record = store.records.get(instance_id)
        if record is not None and checkpoint.rev <= record.rev:
            return CommitOutcome.CONFLICT  # of an execution whose history is gone
        store.history.setdefault(instance_id, {})[key] = checkpoint
        return CommitOutcome.COMMITTED

    async def settle(self, commits: Sequence[Commit]) -> None:
        """See :meth:`durable.backend.Backend.settle`."""
        store = self._open_store()
        if not self.settles_on_commit:
            self._settle(store, commits)

    def _settle(self, store: MemoryStore, commits: Sequence[Commit]) -> None:
        for commit in commits:
            for start in commit.starts:
                store.start(start)
            for message in commit.messages:
                store.put_message(message)
            for execution_id in commit.drops:
                store.drop(commit.record.instance_id, execution_id)
            stored = store.records.get(commit.record.instance_id)
            if stored is not None and stored.rev < commit.record.rev and _of_one_start(stored, commit.record):
                store.put_record(successor_of(stored, commit.record))
            for message_id in commit.consumed:
                store.consume(message_id, commit.record.updated_at)
        if store.watchers:
            self._hint(commit.record.instance_id for commit in commits)
            self._hint(start.record.instance_id for commit in commits for start in commit.starts)
            self._hint_messages(message for commit in commits for message in commit.messages)

    async def load(
        self, instance_id: str, execution_id: str, *, from_seq: int = 0, limit: int = 100
    ) -> Sequence[Checkpoint]:
        """See :meth:`durable.backend.Backend.load`."""
        checkpoints = self._open_store().history.get(instance_id, {})
        found: list[Checkpoint] = []
        while len(found) < limit and (checkpoint := checkpoints.get((execution_id, from_seq + len(found)))):
            found.append(checkpoint)
        return found

    async def get(self, instance_ids: Sequence[str]) -> Sequence[InstanceRecord | None]:
        """See :meth:`durable.backend.Backend.get`."""
        records = self._open_store().records
        return [records.get(instance_id) for instance_id in instance_ids]

    async def query(self, query: Query) -> Page:
        """See :meth:`durable.backend.Backend.query`. Raises ValueError for a ``continuation`` that no page gave."""
        matching = [record for record in self._open_store().records.values() if _matches(query, record)]
        if (after := position_of(query)) is not None:
            is_later = after.__lt__ if query.oldest_first else after.__gt__
            matching = [record for record in matching if is_later(_place(record))]
        matching.sort(key=_place, reverse=not query.oldest_first)
        page = tuple(matching[: query.page_size])
        return Page(page, continuation_of(query, *_place(page[-1])) if len(matching) > len(page) else None)

    async def count(self, query: Query, by: Grouping) -> Mapping[str, int]:
        """See :meth:`durable.backend.Backend.count`."""
        group = attrgetter(check_grouping(by))
        records = self._open_store().records.values()
        return Counter(str(group(record)) for record in records if _matches(query, record))

    async def annotate(self, annotations: Sequence[Annotation]) -> None:
        """See :meth:`durable.backend.Backend.annotate`."""
        store = self._open_store()
        for note in annotations:
            record = store.records.get(note.instance_id)
            if record is not None and record.rev == note.rev:
                beats = note.heartbeats
                store.put_record(replace(record, problem=note.problem, recoveries=note.recoveries, heartbeats=beats))
        self._hint(note.instance_id for note in annotations)

    async def purge(self, instance_ids: Sequence[str]) -> int:
        """See :meth:`durable.backend.Backend.purge`."""
        store = self._open_store()
        records = (store.records.get(instance_id) for instance_id in instance_ids)
        gone = {record.instance_id for record in records if record is not None and _may_go(record)}
        if gone:
            store.messages = {key: kept for key, kept in store.messages.items() if kept.message.instance_id not in gone}
        for instance_id in gone:
            store.delete_instance(instance_id)
        self._hint(gone)
        return len(gone)

    async def set_hold(self, instance_id: str, reason: str | None) -> bool:
        """See :meth:`durable.backend.Backend.set_hold`."""
        store = self._open_store()
        record = store.records.get(instance_id)
        if record is not None:
            store.put_record(replace(record, hold=reason))
        return record is not None

    async def expired(self, before: int, limit: int) -> Sequence[str]:
        """See :meth:`durable.backend.Backend.expired`."""
        found = sorted(
            (record.purge_at, record.instance_id)
            for record in self._open_store().records.values()
            if _may_go(record) and record.purge_at is not None and record.purge_at <= before
        )
        return [instance_id for _, instance_id in found[:limit]]

    # --- messages

    async def send(self, messages: Sequence[Message]) -> None:
        """See :meth:`durable.backend.Backend.send`."""
        store = self._open_store()
        for message in messages:
            store.put_message(message)
        self._hint_messages(messages)

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        """See :meth:`durable.backend.Backend.receive`."""
        inbox = self._open_store().inbox
        found = [message for instance_id in set(instance_ids) for message in inbox.get(instance_id, {}).values()]
        return sorted(found, key=attrgetter("sent_at", "message_id"))[:limit]

    async def consume(self, messages: Sequence[Message], at: int) -> None:
        """See :meth:`durable.backend.Backend.consume`."""
        store = self._open_store()
        for message in messages:
            store.consume(message.message_id, at)

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
        store = self._open_store()
        found: dict[str, int] = {}
        for instance_id in store.live:
            record = store.records[instance_id]
            due_at = record.due_at
            if record.partition in partitions and due_at is not None and due_at <= until and (due_at or include_busy):
                found[instance_id] = due_at
        for instance_id, messages in store.inbox.items():
            if next(iter(messages.values())).partition in partitions:
                found[instance_id] = 0
        ids = sorted(instance_id for instance_id in found if after is None or instance_id > after)
        return [Wakeup(instance_id, found[instance_id]) for instance_id in ids[:limit]]

    async def watch(self) -> AsyncIterator[Hint]:
        """See :meth:`durable.backend.Backend.watch`. Hints of many changes are merged into one without an id."""
        watchers = self._open_store().watchers
        watcher = Watcher(self)
        watchers.append(watcher)
        try:
            while not watcher.closed:
                for hint in await watcher.take():
                    yield hint
        finally:
            watchers.remove(watcher)

    # --- workers and leases

    async def heartbeat(self, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        """See :meth:`durable.backend.Backend.heartbeat`."""
        store = self._open_store()
        store.workers[worker.worker_id] = (worker, now + ttl)
        for lease in list(store.leases.values()):
            if lease.owner == worker.worker_id:
                store.leases[lease.partition] = replace(lease, expires_at=now + ttl)
        return await self.topology(now)

    async def topology(self, now: int) -> Topology:
        """See :meth:`durable.backend.Backend.topology`."""
        store = self._open_store()
        alive = tuple(info for info, expires_at in store.workers.values() if expires_at > now)
        return Topology(alive, tuple(self._lease(partition) for partition in range(store.partition_count)))

    async def acquire_partitions(
        self, worker_id: str, partitions: Collection[int], now: int, ttl: int, *, dead: Collection[str] = ()
    ) -> Collection[int]:
        """See :meth:`durable.backend.Backend.acquire_partitions`."""
        store = self._open_store()
        won = []
        for partition in partitions:
            lease = self._lease(partition)
            if lease.owner in (None, worker_id) or lease.owner in dead or lease.expires_at <= now:
                store.leases[partition] = PartitionLease(partition, worker_id, now + ttl)
                won.append(partition)
        return won

    async def release_partitions(self, worker_id: str, partitions: Collection[int]) -> None:
        """See :meth:`durable.backend.Backend.release_partitions`."""
        leases = self._open_store().leases
        for partition in partitions:
            if self._lease(partition).owner == worker_id:
                del leases[partition]

    async def remove_worker(self, worker_id: str) -> None:
        """See :meth:`durable.backend.Backend.remove_worker`."""
        store = self._open_store()
        await self.release_partitions(worker_id, list(store.leases))
        store.workers.pop(worker_id, None)

    def _lease(self, partition: int) -> PartitionLease:
        return self.store.leases.get(partition, PartitionLease(partition, None, 0))

    # --- large values and upkeep

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See :meth:`durable.backend.Backend.put_payloads`."""
        self._open_store().payloads.setdefault(instance_id, {}).update(payloads)

    async def get_payloads(self, instance_id: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """See :meth:`durable.backend.Backend.get_payloads`."""
        stored = self._open_store().payloads.get(instance_id, {})
        return {key: stored[key] for key in keys if key in stored}

    async def sweep(self, before: int) -> int:
        """See :meth:`durable.backend.Backend.sweep`."""
        store = self._open_store()
        old = [
            key for key, kept in store.messages.items() if kept.consumed_at is not None and kept.consumed_at < before
        ]
        dead = [worker_id for worker_id, (_, expires_at) in store.workers.items() if expires_at < before]
        for key in old:
            del store.messages[key]
        for worker_id in dead:
            del store.workers[worker_id]
        return len(old) + len(dead)

    # --- helpers

    def _queues(self) -> StoredQueues:
        return self._open_store().queues

    def _queue_changed(self, queue: str) -> None:
        for watcher in self.store.watchers:
            if watcher.owner is not self:
                watcher.add_queue(queue)

    def _open_store(self) -> MemoryStore:
        if not self._opened:
            raise BackendClosed("the memory backend is not open; use it between open() and close()")
        return self.store

    def _hint(self, instance_ids: Iterable[str]) -> None:
        self._tell_others((instance_id, None) for instance_id in instance_ids)

    def _hint_messages(self, messages: Iterable[Message]) -> None:
        self._tell_others((message.instance_id, message.message_id) for message in messages)

    def _tell_others(self, changes: Iterable[tuple[str, str | None]]) -> None:
        others = [watcher for watcher in self.store.watchers if watcher.owner is not self]
        if others and (told := list(changes)):
            for watcher in others:
                watcher.add(told)


def _may_go(record: InstanceRecord) -> bool:
    return record.status.is_terminal and record.hold is None


def _matches(query: Query, record: InstanceRecord) -> bool:
    return (
        record.instance_id.startswith("@") == query.entities
        and (not query.status or record.status in query.status)
        and (query.name is None or record.name == query.name)
        and (query.id_prefix is None or record.instance_id.startswith(query.id_prefix))
        and _within(query.created_from, record.created_at, query.created_to)
        and _within(query.updated_from, record.updated_at, query.updated_to)
        and (not query.tags or query.tags.items() <= (record.tags or {}).items())
        and (query.custom_status is None or record.custom_status == query.custom_status)
    )


def _within(first: int | None, time: int, last: int | None) -> bool:
    return (first is None or first <= time) and (last is None or time <= last)


def _of_one_start(stored: InstanceRecord, record: InstanceRecord) -> bool:
    return same_start(stored.execution_id, record.execution_id)
