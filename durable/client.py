"""The client: starting instances and looking at them.

Rule of this file: it reads and writes the store and asks nothing of a worker; that a worker in the
same process can take a start at once, and wake who waits, is a short cut passed in by the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Generic, TypeAlias, TypeVar, cast
from uuid import uuid4

from durable.backend import Backend, BackendUnavailable, CommitOutcome, InstanceRecord, Query
from durable.clock import Clock, from_datetime, to_datetime
from durable.core.errors import (
    FailureDetails,
    InstanceExistsError,
    InstanceNotFoundError,
    OrchestrationFailedError,
)
from durable.core.events import HistoryEvent
from durable.core.ids import check_instance_id, partition_of
from durable.core.state import RuntimeStatus
from durable.definitions import Orchestrator, encode_untyped
from durable.offload import restore_checkpoints, restore_record, store_large_input
from durable.payloads import decode
from durable.registry import Registry
from durable.settings import Settings
from durable.waiting import Waiters

R = TypeVar("R")

LocalStart: TypeAlias = Callable[[InstanceRecord, Callable[[CommitOutcome | None], None]], bool]
"""Takes a start into this process if it can (see ``Worker.start_instance``)."""

_STORE_RETRY = 0.2
_PAGE = 200


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance as its record shows it. Times are UTC; ``input``, ``output`` and ``custom_status`` plain JSON values.

    ``input`` is the list of positional arguments (or ``{"args": [...], "kwargs": {...}}``). ``problem`` says
    why an instance that should move does not: it is parked until its code or its worker is mended.
    """

    instance_id: str
    execution_id: str
    name: str
    runtime_status: RuntimeStatus
    created_at: datetime
    last_updated_at: datetime
    completed_at: datetime | None
    input: Any
    output: Any
    custom_status: Any
    failure: FailureDetails | None
    problem: str | None
    version: str | None
    tags: Mapping[str, str]


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
        record_ahead: Callable[[str], InstanceRecord | None],
    ) -> None:
        self._backend = backend
        self._count = partition_count
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._local_start = local_start
        self._created = created
        self._record_ahead = record_ahead
        self.waiters = waiters

    # --- starting ----------------------------------------------------------------------------

    async def start(
        self,
        orchestrator: Orchestrator[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        instance_id: str | None,
        version: str | None,
        tags: Mapping[str, str] | None,
    ) -> str:
        """Create an instance; see ``TaskHub.start``."""
        record = self._new_record(orchestrator, args, kwargs, instance_id, version, tags)
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout
        outcome = await self._start_here(record)
        if outcome is None:
            existing = await self._create(record, deadline)
        elif outcome is CommitOutcome.EXISTS:
            existing = await self.record(record.instance_id)
        else:
            existing = None
        if existing is not None:
            raise InstanceExistsError(existing.instance_id, existing.status.value)
        return record.instance_id

    def _new_record(
        self,
        orchestrator: Orchestrator[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        instance_id: str | None,
        version: str | None,
        tags: Mapping[str, str] | None,
    ) -> InstanceRecord:
        instance_id = uuid4().hex if instance_id is None else check_instance_id(instance_id)
        name = orchestrator if isinstance(orchestrator, str) else orchestrator.name
        definition = self._registry.orchestrators.get(name)
        if definition is None and self._registry.orchestrators:
            self._registry.find_orchestrator(name)  # raises, listing near names
        if definition is None:
            payload = encode_untyped(args, kwargs, f"orchestrator {name!r}")
        else:
            payload = definition.encode_arguments(args, kwargs)
        now = self._clock()
        return InstanceRecord(
            instance_id=instance_id,
            execution_id=token_hex(16),
            name=name,
            partition=partition_of(instance_id, self._count),
            created_at=now,
            updated_at=now,
            input=payload,
            version=version,
            tags=_checked_tags(tags),
            due_at=now,
        )

    async def _start_here(self, record: InstanceRecord) -> CommitOutcome | None:
        """Start in this process, the creation and the first checkpoint in one commit; None when that cannot be."""
        committed: asyncio.Future[CommitOutcome | None] = asyncio.get_running_loop().create_future()

        def done(outcome: CommitOutcome | None) -> None:
            if not committed.done():
                committed.set_result(outcome)

        if not self._local_start(record, done):
            return None
        seconds = self._settings.start_timeout
        limit = asyncio.get_running_loop().call_later(seconds, _give_up, committed, record.instance_id, seconds)
        try:
            # A conflict means that it was created, and another worker was first to run it.
            return await committed
        finally:
            limit.cancel()

    async def _create(self, record: InstanceRecord, deadline: float) -> InstanceRecord | None:
        while True:
            try:
                small = await store_large_input(self._backend, record)
                existing = (await self._backend.create_instances([small]))[0]
            except BackendUnavailable:
                if asyncio.get_running_loop().time() + _STORE_RETRY >= deadline:
                    raise
                await asyncio.sleep(_STORE_RETRY)  # in doubt, and idempotent: the same record again
            else:
                self._created(record.instance_id)
                return existing

    # --- looking -----------------------------------------------------------------------------

    async def record(self, instance_id: str) -> InstanceRecord:
        """The record of an instance, large values included. Raises InstanceNotFoundError."""
        ahead = self._record_ahead(instance_id)
        found = ahead or (await self._backend.get([instance_id]))[0]
        if found is None:
            raise InstanceNotFoundError(f"there is no instance {instance_id!r} in this task hub")
        return await restore_record(self._backend, found)

    async def history(self, instance_id: str) -> list[HistoryEvent]:
        """All events of the instance's current execution, in order. Raises InstanceNotFoundError."""
        record = await self.record(instance_id)
        events: list[HistoryEvent] = []
        seq = 0
        while True:
            page = await self._backend.load(instance_id, record.execution_id, from_seq=seq, limit=_PAGE)
            for checkpoint in await restore_checkpoints(self._backend, page):
                events += checkpoint.events
            if len(page) < _PAGE:
                return events
            seq = page[-1].seq + 1

    async def query(self, query: Query) -> AsyncIterator[InstanceStatus]:
        """All instances that match, page after page."""
        while True:
            page = await self._backend.query(query)
            for record in page.records:
                yield status_of(await restore_record(self._backend, record))
            if page.continuation is None:
                return
            query = replace(query, continuation=page.continuation)

    def decode_output(self, record: InstanceRecord, definition: Orchestrator[..., Any] | None) -> Any:
        """The result of a completed instance, typed where its orchestrator is known here."""
        definition = definition or self._registry.orchestrators.get(record.name)
        payload = record.output or "null"
        return decode(payload) if definition is None else definition.decode_result(payload)


class InstanceHandle(Generic[R]):
    """One instance, seen from a client. Made by ``TaskHub.start`` and ``TaskHub.get``."""

    def __init__(
        self, instance_id: str, client: Callable[[], Client], definition: Orchestrator[..., R] | None = None
    ) -> None:
        self.instance_id = instance_id
        self._client = client
        self._definition = definition

    async def status(self) -> InstanceStatus:
        """How the instance stands now. Raises InstanceNotFoundError."""
        return status_of(await self._client().record(self.instance_id))

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the end and return what the orchestrator returned.

        ``timeout`` is in seconds. Raises TimeoutError when it runs out (the instance goes on),
        OrchestrationFailedError when the orchestrator failed, InstanceNotFoundError.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        client = self._client()
        async with asyncio.timeout(seconds):
            record = await client.waiters.wait(self.instance_id)
        if record.status is RuntimeStatus.FAILED:
            details = record.failure or FailureDetails("builtins.Exception", "no details were recorded")
            raise OrchestrationFailedError(self.instance_id, details)
        return cast("R", client.decode_output(record, self._definition))

    async def history(self) -> list[HistoryEvent]:
        """The events of the instance so far, in order. Raises InstanceNotFoundError."""
        return await self._client().history(self.instance_id)

    def __repr__(self) -> str:
        return f"<instance {self.instance_id!r}>"


def _give_up(committed: asyncio.Future[Any], instance_id: str, seconds: float) -> None:
    if not committed.done():
        committed.set_exception(
            BackendUnavailable(
                f"the store did not confirm the start of {instance_id!r} within {seconds:g} s; "
                "it may or may not have been started"
            )
        )


def status_of(record: InstanceRecord) -> InstanceStatus:
    """What users see of a record."""
    return InstanceStatus(
        instance_id=record.instance_id,
        execution_id=record.execution_id,
        name=record.name,
        runtime_status=record.status,
        created_at=to_datetime(record.created_at),
        last_updated_at=to_datetime(record.updated_at),
        completed_at=None if record.completed_at is None else to_datetime(record.completed_at),
        input=decode(record.input),
        output=None if record.output is None else decode(record.output),
        custom_status=None if record.custom_status is None else decode(record.custom_status),
        failure=record.failure,
        problem=record.problem,
        version=record.version,
        tags=dict(record.tags or {}),
    )


def make_query(
    *,
    status: RuntimeStatus | Sequence[RuntimeStatus] | None,
    name: str | None,
    id_prefix: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    page_size: int,
) -> Query:
    """A checked query. Raises ValueError naming the value that cannot be used."""
    if not 1 <= page_size <= 1000:
        raise ValueError(f"page_size must be 1 to 1000, not {page_size}")
    wanted = () if status is None else (status,) if isinstance(status, str) else tuple(status)
    return Query(
        status=tuple(RuntimeStatus(one) for one in wanted),
        name=name,
        id_prefix=id_prefix,
        created_from=None if created_from is None else from_datetime(created_from),
        created_to=None if created_to is None else from_datetime(created_to),
        page_size=page_size,
    )


def _checked_tags(tags: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if not tags:
        return None
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str) or not key:
            raise ValueError(f"tags must map non-empty text to text; got {key!r}: {value!r}")
    return dict(tags)
