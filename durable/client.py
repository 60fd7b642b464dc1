"""The client: starting instances and looking at them.

Rule of this file: it reads and writes the store and asks nothing of a worker; that a worker in the
same process can take a start at once, and wake who waits, is a short cut passed in by the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from durable.activity_context import parse_token
from durable.backend import (
    Backend,
    BackendUnavailable,
    Checkpoint,
    CommitOutcome,
    InstanceRecord,
    Message,
    Page,
    Query,
)
from durable.backend_queries import Grouping
from durable.clock import Clock
from durable.core.errors import InstanceFinishedError, InstanceNotFoundError
from durable.core.events import EntityOperationSignaled, EventRaised, ExecutionRewound, HistoryEvent
from durable.core.ids import check_instance_id, is_entity, partition_of
from durable.definitions import Orchestrator
from durable.gathering import Gathering
from durable.instrument import Instrument
from durable.offload import MissingPayloadError, restore_checkpoints, restore_record, store_large_input
from durable.payloads import decode
from durable.random_ids import RandomIds
from durable.registry import Registry
from durable.settings import Settings
from durable.time_limit import TimeLimit
from durable.waiting import Waiters

R = TypeVar("R")

LocalStart: TypeAlias = Callable[[InstanceRecord, Callable[[CommitOutcome | None], None]], bool]
"""Takes a start into this process if it can (see ``Worker.start_instance``)."""

_STORE_RETRY = 0.2
_TRIES = 20
_PAGE = 200


class Client:
    """Starts, reads and queries the instances of one task hub."""

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        waiters: Waiters,
        local_start: LocalStart,
        created: Callable[[str], None],
        sent: Callable[[Message], None],
        record_ahead: Callable[[str], InstanceRecord | None],
        instrument: Instrument | None = None,
    ) -> None:
        self.instrument = instrument
        self.backend = backend
        self.partition_count = partition_count
        self.registry = registry
        self.settings = settings
        self._clock = clock
        self._local_start = local_start
        self._created = created
        self._sent = sent
        self._record_ahead = record_ahead
        self._start_limit = TimeLimit(settings.start_timeout)
        self._ids = RandomIds()
        self._name = self._ids.draw()[:16]
        self._last_sent = 0
        self.waiters = waiters
        self._get = Gathering(backend.get)
        self._create_stored = Gathering(backend.create_instances)
        self._send_stored = Gathering(self._send_all)

    # --- creating ----------------------------------------------------------------------------

    def new_record(
        self,
        name: str,
        payload: str,
        *,
        instance_id: str | None,
        version: str | None,
        tags: Mapping[str, str] | None,
        start_at: int | None = None,
    ) -> InstanceRecord:
        """The record of an instance that is not there yet, under a new id unless one is given, to begin at a time.

        Raises ValueError for an instance id that breaks a rule.
        """
        instance_id = self._ids.draw() if instance_id is None else check_instance_id(instance_id)
        now = self._clock()
        return InstanceRecord(
            instance_id=instance_id,
            execution_id=self._ids.draw(),
            name=name,
            partition=partition_of(instance_id, self.partition_count),
            created_at=now,
            updated_at=now,
            input=payload,
            version=version or self.settings.version,
            tags=tags or None,
            due_at=now if start_at is None else max(now, start_at),
        )

    async def create(self, record: InstanceRecord) -> InstanceRecord | None:
        """Create an instance; None when it is there now, else the record of another start that holds its id.

        Raises BackendUnavailable when the store did not confirm in time: it may or may not have been created.
        """
        if record.rev == 0 and record.due_at == record.created_at:
            outcome = await self._start_here(record)
            if outcome not in (None, CommitOutcome.EXISTS):
                return None
        return await self._create(record)

    async def _start_here(self, record: InstanceRecord) -> CommitOutcome | None:
        """Start in this process, the creation and the first checkpoint in one commit; None when that cannot be."""
        committed: asyncio.Future[CommitOutcome | None] = asyncio.get_running_loop().create_future()

        def done(outcome: CommitOutcome | None) -> None:
            if not committed.done():
                committed.set_result(outcome)

        if not self._local_start(record, done):
            return None
        self._start_limit.add(committed, lambda: _unconfirmed(record.instance_id, self.settings.start_timeout))
        try:
            # A conflict means that it was created, and another worker was first to run it.
            return await committed
        finally:
            self._start_limit.remove(committed)

    async def _create(self, record: InstanceRecord) -> InstanceRecord | None:
        async def create() -> InstanceRecord | None:
            small = await store_large_input(self.backend, record)
            return await self._create_stored(small)

        existing = await self.insist(create)
        self.created(record.instance_id)
        return existing

    def created(self, instance_id: str) -> None:
        """An instance is in the store now; a worker of this process may look for it."""
        self._created(instance_id)

    # --- telling -----------------------------------------------------------------------------

    async def send(
        self,
        instance_id: str,
        make: Callable[[int, str], HistoryEvent],
        idempotency_key: str | None = None,
        *,
        execution_id: str | None = None,
    ) -> None:
        """Send the event that ``make`` makes of a time and a message id to an entity, or to an instance that runs.

        With ``execution_id`` it is for that execution only, and dropped when another one has its place.

        Raises InstanceNotFoundError, InstanceFinishedError.
        """
        message, record = self.new_message(instance_id, make, idempotency_key, execution_id=execution_id), None
        if not is_entity(instance_id):  # those are there as soon as somebody asks
            record = await self.record(instance_id)
            if record.status.is_terminal and not isinstance(message.event, ExecutionRewound):
                raise InstanceFinishedError(instance_id, record.status.value)
        with self.traced(message, record) as message:
            await self.insist(lambda: self._send_stored(message))
        self._sent(message)

    async def _send_all(self, messages: Sequence[Message]) -> Sequence[None]:
        await self.backend.send(messages)
        return [None] * len(messages)

    def traced(self, message: Message, receiver: InstanceRecord | None) -> AbstractContextManager[Message]:
        """The message that is to be sent within the block: with the caller's trace context, where that is wanted.

        ``receiver`` is the instance as it was last seen; None for an entity.
        """
        if self.instrument is None or not isinstance(message.event, EventRaised | EntityOperationSignaled):
            return nullcontext(message)
        return _sending(self.instrument, message, message.event, receiver)

    def new_message(
        self,
        instance_id: str,
        make: Callable[[int, str], HistoryEvent],
        idempotency_key: str | None = None,
        *,
        execution_id: str | None = None,
    ) -> Message:
        """A message that is not sent yet, later than all before it. Raises ValueError for what entities do not take."""
        now = self._next_time()
        message_id = self._message_id(instance_id, now) if idempotency_key is None else idempotency_key
        event = make(now, message_id)
        if is_entity(instance_id) and not isinstance(event, EntityOperationSignaled):
            raise ValueError(f"{instance_id!r} is an entity: it takes signals and calls, and nothing else")
        partition = partition_of(instance_id, self.partition_count)
        return Message(message_id, instance_id, partition, now, event, execution_id)

    def now(self) -> int:
        """The time by the hub's clock, in microseconds."""
        return self._clock()

    def _next_time(self) -> int:
        """The time, later than that of any message before: what one client sends stays in order."""
        self._last_sent = max(self._clock(), self._last_sent + 1)
        return self._last_sent

    def _message_id(self, instance_id: str, time: int) -> str:
        """The id of a message of this client: no other of its messages has that time."""
        return f"{instance_id}/client/{self._name}-{time:x}"

    async def complete_task(self, token: str, make: Callable[[int, int], HistoryEvent]) -> None:
        """Send the outcome that ``make`` makes of a time and a task id for the activity call that ``token`` names."""
        instance_id, execution_id, task_id = parse_token(token)
        record = await self.record(instance_id)
        if record.status.is_terminal or record.execution_id != execution_id:
            raise InstanceFinishedError(instance_id, record.status.value)
        now = self._clock()
        message = Message(
            f"{instance_id}/{execution_id}/{task_id:08d}/token",
            instance_id,
            partition_of(instance_id, self.partition_count),
            now,
            make(now, task_id),
            execution_id,
        )
        await self.insist(lambda: self._send_stored(message))
        self._sent(message)

    async def insist(self, operation: Callable[[], Awaitable[R]]) -> R:
        """Repeat an idempotent operation while the store does not answer, for ``start_timeout`` at most."""
        deadline = asyncio.get_running_loop().time() + self.settings.start_timeout
        while True:
            try:
                return await operation()
            except BackendUnavailable:
                if asyncio.get_running_loop().time() + _STORE_RETRY >= deadline:
                    raise
                await asyncio.sleep(_STORE_RETRY)  # in doubt, and idempotent: the same again

    # --- looking -----------------------------------------------------------------------------

    async def find(self, instance_id: str) -> InstanceRecord | None:
        """The record of an instance without its large values; None when there is none.

        It is the one that the worker of this process has committed, where the store still shows an older one.
        """
        return self._record_ahead(instance_id) or await self._get(instance_id)

    async def record(self, instance_id: str) -> InstanceRecord:
        """The record of an instance, large values included. Raises InstanceNotFoundError."""
        found = await self.find(instance_id)
        if found is None:
            raise not_found(instance_id)
        return await restore_record(self.backend, found)

    async def shown(self, instance_id: str) -> InstanceRecord:
        """The record of an instance with its hold as the store has it: no turn carries that. Raises as ``record``."""
        ahead = self._record_ahead(instance_id)
        record = await self.record(instance_id)
        stored = None if ahead is None else await self._get(instance_id)
        return record if stored is None else replace(record, hold=stored.hold)

    async def whole(self, record: InstanceRecord) -> InstanceRecord | None:
        """A record that was listed, large values included; None when the instance has been purged since."""
        try:
            return await restore_record(self.backend, record)
        except MissingPayloadError:
            if await self._get(record.instance_id) is None:
                return None
            raise

    async def forget(self, instance_id: str) -> None:
        """Purge an instance that has ended as soon as the store shows that it has, for which this waits a second."""
        for _ in range(_TRIES):
            if await self.backend.purge([instance_id]):
                return
            await asyncio.sleep(_STORE_RETRY / 4)

    async def has_moved(self, instance_id: str, rev: int) -> bool:
        """Whether the store shows more of an instance than its checkpoint ``rev``."""
        found = await self._get(instance_id)
        return found is not None and found.rev > rev

    async def checkpoints(self, instance_id: str, execution_id: str) -> list[Checkpoint]:
        """The checkpoints of an execution as far as they are kept, large values included, in order."""
        found: list[Checkpoint] = []
        while True:
            page = await self.backend.load(instance_id, execution_id, from_seq=len(found), limit=_PAGE)
            found += await restore_checkpoints(self.backend, page)
            if len(page) < _PAGE:
                return found

    async def pages(self, query: Query) -> AsyncIterator[Page]:
        """The records that match, page after page; see :meth:`whole`."""
        while True:
            page = await self.backend.query(query)
            yield page
            if page.continuation is None:
                return
            query = replace(query, continuation=page.continuation)

    async def count(self, query: Query, by: Grouping) -> dict[str, int]:
        """How many records match, by status or name."""
        return dict(await self.backend.count(query, by))

    # --- many at once, and keeping them

    async def tell_all(self, records: Sequence[InstanceRecord], make: Callable[[int, str], HistoryEvent]) -> None:
        """Send the event that ``make`` makes of a time and a message id to these instances, and to no later one of the
        same id. One that has ended or vanished meanwhile does not take it in.
        """
        messages = []
        for record in records:
            now = self._next_time()
            message_id = self._message_id(record.instance_id, now)
            event = make(now, message_id)
            messages.append(Message(message_id, record.instance_id, record.partition, now, event, record.execution_id))
        await self.insist(lambda: self.backend.send(messages))
        for message in messages:
            self._sent(message)

    async def purge_all(self, instance_ids: Sequence[str]) -> int:
        """Purge those that have ended and are not held; return how many went."""
        return await self.insist(lambda: self.backend.purge(instance_ids))

    async def set_hold(self, instance_id: str, reason: str | None) -> None:
        """Keep an instance from being purged, or (None) no longer. Raises InstanceNotFoundError."""
        if not await self.insist(lambda: self.backend.set_hold(instance_id, reason)):
            raise not_found(instance_id)

    def decode_output(self, record: InstanceRecord, definition: Orchestrator[..., Any] | None) -> Any:
        """The result of a completed instance, typed where its orchestrator is known here."""
        definition = definition or self.registry.orchestrators.get(record.name)
        payload = record.output or "null"
        return decode(payload) if definition is None else definition.decode_result(payload)


def not_found(instance_id: str) -> InstanceNotFoundError:
    """The error for an id that no instance has."""
    return InstanceNotFoundError(f"there is no instance {instance_id!r} in this task hub")


@contextmanager
def _sending(
    instrument: Instrument,
    message: Message,
    event: EventRaised | EntityOperationSignaled,
    receiver: InstanceRecord | None,
) -> Iterator[Message]:
    with instrument.sending(message.instance_id, event, receiver) as traced:
        yield replace(message, event=traced)


def _unconfirmed(instance_id: str, seconds: float) -> BackendUnavailable:
    return BackendUnavailable(
        f"the store did not confirm the start of {instance_id!r} within {seconds:g} s; "
        "it may or may not have been started"
    )
