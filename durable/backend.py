"""The storage port: what the engine asks of a store, and what each operation promises.

Rule of this file: a backend is written against this text and checked by
``durable.testing.conformance``. Every operation is batch-shaped, idempotent and safe to repeat
after :class:`BackendUnavailable`, which always means *in doubt*: the operation may
have been applied, or not, or may yet be. All times are integer microseconds since the
epoch, UTC, and are passed in; a backend never reads a clock to decide anything.

The commit protocol (docs/design.md has the argument, tests/core the model):

* **commit** inserts the next checkpoint of an execution. Its key is unique, so of two
  writers one loses. That insert is the only commit point; no multi-document
  transaction is needed.
* **settle** does what follows from committed checkpoints, in this order for one
  instance: start others, send its messages, update its record, mark the messages it consumed.
  Each step is idempotent; the order keeps one trigger standing through any crash (R1).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

from durable.backend_queries import Grouping as Grouping
from durable.backend_queries import Query as Query
from durable.core.errors import DurableError, FailureDetails
from durable.core.events import HistoryEvent, ParentInstance
from durable.core.state import RuntimeStatus
from durable.core.values import value


class BackendError(DurableError):
    """Base class of what a backend raises."""


class BackendUnavailable(BackendError):  # noqa: N818 - a state of the store, named as in DESIGN
    """The store did not answer in time or the connection broke. The operation is in doubt; repeat it as it was."""


class BackendClosed(BackendError):  # noqa: N818
    """The backend was used before ``open`` or after ``close``."""


@value
class Checkpoint:
    """One committed turn: the unit of history, appended once and never changed.

    ``(instance_id, execution_id, seq)`` is unique; ``seq`` counts from 0 within an execution,
    ``rev`` counts the instance's checkpoints through all its executions, from 1. ``token`` is
    the writer's own, by which it recognizes its write after a doubt. ``recoveries`` is
    how often the instance had been recovered when this turn ran (see :meth:`Backend.annotate`).
    """

    instance_id: str
    execution_id: str
    seq: int
    rev: int
    token: str
    events: tuple[HistoryEvent, ...]
    recoveries: int = 0


@value
class InstanceRecord:
    """One row per instance: the projection of its history that is indexed and queried.

    Before the first checkpoint of an execution it is itself the start message.
    ``due_at`` is when the partition's owner has something to do: 0 = now (it has outstanding
    activities), a time = then (start or timer), None = nothing before a message arrives.
    ``problem`` says why an instance that should move does not. ``heartbeats`` holds what outstanding
    activities last reported, by task id (as text). ``purge_at`` is when an ended instance may be purged (None: never),
    ``hold`` why it may not; only :meth:`Backend.set_hold` changes that.
    """

    instance_id: str
    execution_id: str
    name: str
    partition: int
    created_at: int
    updated_at: int
    input: str
    status: RuntimeStatus = RuntimeStatus.PENDING
    rev: int = 0
    version: str | None = None
    tags: Mapping[str, str] | None = None
    due_at: int | None = None
    completed_at: int | None = None
    output: str | None = None
    custom_status: str | None = None
    failure: FailureDetails | None = None
    problem: str | None = None
    recoveries: int = 0
    parent: ParentInstance | None = None
    heartbeats: Mapping[str, str] | None = None
    purge_at: int | None = None
    hold: str | None = None


@value
class Message:
    """Something sent to an instance. ``message_id`` is deterministic, so that sending it again changes nothing.

    ``execution_id`` names the execution that asked for this answer, or the first one of a child that its parent tells
    something; None: it is for whichever runs.
    """

    message_id: str
    instance_id: str
    partition: int
    sent_at: int
    event: HistoryEvent
    execution_id: str | None = None


@value
class Start:
    """Another instance to be created, Pending; ``otherwise`` is sent where its id is taken by a stranger."""

    record: InstanceRecord
    otherwise: Message | None = None


@value
class Commit:
    """A checkpoint with what follows from it.

    ``record`` is the instance's record as of this checkpoint. ``create`` says that the instance does not exist
    yet and is created with its first checkpoint. ``starts`` are to be created, ``messages`` to be sent, ``consumed``
    are ids of inbox messages that the turn took in, ``drops`` former executions of the instance whose history goes.
    """

    checkpoint: Checkpoint
    record: InstanceRecord
    create: bool = False
    messages: tuple[Message, ...] = ()
    consumed: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    drops: tuple[str, ...] = ()


class CommitOutcome(Enum):
    """What became of one commit of a batch."""

    COMMITTED = "committed"  # by this call, or by an earlier one with the same token
    CONFLICT = "conflict"  # another writer holds that checkpoint; drop the instance and reload
    EXISTS = "exists"  # ``create`` was asked, but an instance of that id was there already; nothing written


@value
class Wakeup:
    """An instance that has something to do, and since when or from when (``due_at``, 0 = now)."""

    instance_id: str
    due_at: int


@value
class Annotation:
    """A change to a record that no checkpoint carries: why it does not move, how often it was recovered, heartbeats."""

    instance_id: str
    rev: int
    problem: str | None
    recoveries: int
    heartbeats: Mapping[str, str] | None = None


@value
class WorkerInfo:
    """A worker as the others see it. ``host`` names the machine and process namespace that ``pid`` belongs to."""

    worker_id: str
    host: str
    pid: int
    process_started: int
    started_at: int


@value
class PartitionLease:
    """Who should work on a partition, and until when. ``owner`` None: nobody."""

    partition: int
    owner: str | None
    expires_at: int


@value
class Topology:
    """The workers whose heartbeat has not expired, and all partitions."""

    workers: tuple[WorkerInfo, ...]
    leases: tuple[PartitionLease, ...]


@value
class Page:
    """One page of records; ``continuation`` is None on the last one."""

    records: tuple[InstanceRecord, ...]
    continuation: str | None


@value
class Hint:
    """Something changed: this instance, by that message if it is one; that ``queue`` of activities; or (all None)
    anything. A hint may be lost. One of a message must name it, unless it is of anything."""

    instance_id: str | None
    message_id: str | None = None
    queue: str | None = None


class Backend(Protocol):
    """A store for one task hub. All methods may raise BackendUnavailable (in doubt, repeat)."""

    settles_on_commit: bool
    """True when :meth:`commit` does the work of :meth:`settle` in the same transaction."""

    async def open(self, partition_count: int) -> int:
        """Connect, create what is missing, and return the hub's partition count.

        The count is fixed by whoever opens the hub first; later openers get that one back.
        Safe to be called by several processes at once.
        """
        ...

    async def close(self) -> None:
        """Finish writes under way and disconnect. Idempotent."""
        ...

    # --- instances and history

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        """Insert Pending records (R5). Each is atomic on its own, durable on return.

        For each record: None when it was created, now or by an earlier call with the same ``execution_id`` (also
        when it has continued as new since: ``ids.same_start``); else the record that is there already, untouched.
        """
        ...

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        """Insert checkpoints: the commit point of each turn. Durable (fsync / majority + journal) on return.

        Each commit is atomic on its own; one that loses does not hinder the others. A batch holds at
        most one commit of an instance. A checkpoint of which the store has the key already is
        COMMITTED when the stored token equals its own, else CONFLICT. (Of an instance that was purged it may be
        either; its record does not come back.) With ``create`` the record is inserted before the checkpoint
        (EXISTS if the id is taken by another start), in its Pending form with ``rev`` 0 and
        ``due_at`` its ``created_at``: what was started is found and run, even when a crash falls between the
        two or before ``settle``.
        Readers never see a part of a checkpoint.
        """
        ...

    async def settle(self, commits: Sequence[Commit]) -> None:
        """Do what follows from committed checkpoints; idempotent; several of one instance may come, in order.

        For one instance in this order: (1) create its ``starts`` as :meth:`create_instances` does; where another
        start holds the id, insert ``otherwise`` as a message, (2) insert its ``messages`` where the id is new,
        (3) delete the history of its ``drops``, (4) replace its record where the stored ``rev`` is lower and it is
        of the same start, if it still exists (``hold`` stays; ``tags``, ``created_at``, ``name``, ``partition``,
        ``version`` and ``parent`` never change),
        (5) mark its ``consumed`` messages as tombstones. A caller that loses the connection repeats the call. A
        no-op where ``settles_on_commit``.
        """
        ...

    async def load(
        self, instance_id: str, execution_id: str, *, from_seq: int = 0, limit: int = 100
    ) -> Sequence[Checkpoint]:
        """The execution's checkpoints from ``from_seq`` on, in order, without gaps, at most ``limit``.

        Reads what is committed (read-your-writes). An empty answer ends the history. Raises
        UnsupportedHistoryError for events this version does not know.
        """
        ...

    async def get(self, instance_ids: Sequence[str]) -> Sequence[InstanceRecord | None]:
        """The records of these instances, None where there is none. Read-your-writes."""
        ...

    async def query(self, query: Query) -> Page:
        """A page of records. Over all pages, each record that existed throughout and matched comes exactly once.

        Raises ValueError for a ``continuation`` that is not of a page of this store in this order.
        """
        ...

    async def count(self, query: Query, by: Grouping) -> Mapping[str, int]:
        """How many records match, by status or name; what has none is not there. Order and pages play no part.

        Raises ValueError for any other ``by``.
        """
        ...

    async def annotate(self, annotations: Sequence[Annotation]) -> None:
        """Set ``problem``, ``recoveries`` and ``heartbeats`` where the stored ``rev`` equals the given one."""
        ...

    async def purge(self, instance_ids: Sequence[str]) -> int:
        """Delete terminal instances that are not held, whole, and return how many records went (R6).

        History, messages and payloads go first, the record last; others are left alone. From the first deletion on,
        ``get``, ``query`` and ``count`` do not show the instance, and nothing changes it; its id is free when the
        record is gone. A crash in between leaves it to be purged again: ``expired`` names it, whatever its time.
        """
        ...

    async def set_hold(self, instance_id: str, reason: str | None) -> bool:
        """Keep an instance from being purged, for that reason, or (None) no longer. Durable on return.

        False when there is none, or a purge was first. Of a hold and a purge at once, one wins and is whole.
        """
        ...

    async def expired(self, before: int, limit: int) -> Sequence[str]:
        """The first ``limit`` terminal instances, by ``purge_at``, with ``purge_at <= before`` that are not held."""
        ...

    # --- messages

    async def send(self, messages: Sequence[Message]) -> None:
        """Insert messages whose id is new, also against consumed ones (R2). Durable on return."""
        ...

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        """Messages of these instances that are not consumed, by ``sent_at`` then ``message_id``; at most ``limit``."""
        ...

    async def consume(self, messages: Sequence[Message], at: int) -> None:
        """Mark messages as tombstones that no turn will take in: duplicates, and what came too late."""
        ...

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
        """Instances of these partitions that have something to do by ``until`` (R1), by instance id.

        These are the non-terminal ones with ``due_at <= until`` (``due_at`` 0 only with ``include_busy``), and all
        with an unconsumed message, be they terminal or not there (as ``due_at`` 0, whatever ``include_busy``). Each
        instance comes once.
        The next page starts ``after`` the last id of this one; fewer than ``limit`` rows: the last page.
        """
        ...

    def watch(self) -> AsyncIterator[Hint]:
        """Hints about what other processes change: instances created or changed, messages sent. Ends with ``close``."""
        ...

    # --- workers and leases

    async def heartbeat(self, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        """Note that ``worker`` lives until ``now + ttl``, and its leases, expired or not; return :meth:`topology`."""
        ...

    async def topology(self, now: int) -> Topology:
        """The workers that live at ``now`` and the leases of all partitions. Changes nothing."""
        ...

    async def acquire_partitions(
        self, worker_id: str, partitions: Collection[int], now: int, ttl: int, *, dead: Collection[str] = ()
    ) -> Collection[int]:
        """Take those partitions that nobody holds, whose lease has expired, or whose owner is in ``dead``; return them.

        Each is one compare-and-set: of two workers that ask at once, one gets it. One already held by
        ``worker_id`` is returned too.
        """
        ...

    async def release_partitions(self, worker_id: str, partitions: Collection[int]) -> None:
        """Give up those of these partitions that ``worker_id`` holds, at once."""
        ...

    async def remove_worker(self, worker_id: str) -> None:
        """Forget a worker that stops: its leases are given up, its heartbeat is deleted."""
        ...

    # --- large values and upkeep

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """Store values by key under an instance. A key is a content hash: storing it again changes nothing. Durable."""
        ...

    async def get_payloads(self, instance_id: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """The stored values of these keys; a missing key is missing in the answer."""
        ...

    async def sweep(self, before: int) -> int:
        """Delete message tombstones consumed before that time, and expired workers; return how many rows went."""
        ...
