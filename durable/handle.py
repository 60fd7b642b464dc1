"""Handles: one instance, seen from a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast

from durable.backend import InstanceRecord
from durable.client import Client
from durable.clock import to_datetime
from durable.core.errors import (
    FailureDetails,
    InstanceNotFailedError,
    OrchestrationCanceledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
)
from durable.core.events import (
    EventRaised,
    ExecutionCancelRequested,
    ExecutionResumed,
    ExecutionRewound,
    ExecutionSuspended,
    ExecutionTerminated,
    ForkOrigin,
    HistoryEvent,
)
from durable.core.ids import check_event_name
from durable.core.state import RuntimeStatus
from durable.definitions import Orchestrator
from durable.forking import fork, origin_of, own_tags
from durable.histories import executions, read_history
from durable.joining import send_in
from durable.payloads import decode, encode
from durable.purging import purge
from durable.restarting import restart
from durable.scheduling import scheduled_for

R = TypeVar("R")

_SHOWN, _LOOK = 1.0, 0.02  # seconds


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance as its record shows it. Times are UTC; ``input``, ``output`` and ``custom_status`` plain JSON values.

    ``input`` is the list of positional arguments (or ``{"args": [...], "kwargs": {...}}``). ``problem`` says
    why an instance that should move does not: it is parked until its code or its worker is mended.
    ``scheduled_start_at`` is when a Pending instance begins that was started for a later time. ``forked_from`` says of
    which execution, and up to which event, a fork shares the history. ``purge_at`` is when its retention is over,
    ``hold`` why it is kept all the same.
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
    parent_instance_id: str | None = None
    root_instance_id: str | None = None
    purge_at: datetime | None = None
    hold: str | None = None
    scheduled_start_at: datetime | None = None
    forked_from: ForkOrigin | None = None


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
        return status_of(await self._client().shown(self.instance_id))

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the end and return what the orchestrator returned.

        ``timeout`` is in seconds. Raises TimeoutError when it runs out (the instance goes on),
        OrchestrationFailedError, OrchestrationTerminatedError, OrchestrationCanceledError, InstanceNotFoundError.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        client = self._client()
        if seconds is None:
            record = await client.waiters.wait(self.instance_id)
        else:
            async with asyncio.timeout(seconds):
                record = await client.waiters.wait(self.instance_id)
        _raise_unless_completed(record)
        return cast("R", client.decode_output(record, self._definition))

    async def wait_for_start(self, timeout: float | timedelta | None = None) -> InstanceStatus:
        """Wait until the instance has begun, which is to say that it is not Pending any more; it may have ended.

        ``timeout`` is in seconds. Raises TimeoutError when it runs out, InstanceNotFoundError.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        client = self._client()
        async with asyncio.timeout(seconds):
            record = await client.record(self.instance_id)
            if record.status is RuntimeStatus.PENDING:
                record = await client.waiters.wait(self.instance_id, start=True)
        return status_of(record)

    # --- telling it something; each raises InstanceNotFoundError, or InstanceFinishedError when it has ended

    async def raise_event(
        self, name: str, data: object = None, *, idempotency_key: str | None = None, session: Any = None
    ) -> None:
        """Raise an external event: durable on return, kept until the orchestrator waits for one of that name.

        With an ``idempotency_key`` it is delivered once, however often it is raised with that key (within 7 days).
        With a MongoDB ``session`` it is a part of the session's transaction (see ``TaskHub.start``).
        Raises ValueError for a bad name, PayloadError for data that JSON cannot carry.
        """
        payload = encode(data, f"the data of event {check_event_name(name)!r}")
        key = None if idempotency_key is None else f"{self.instance_id}/key/{name.casefold()}/{idempotency_key}"
        client = self._client()
        if session is None:
            await client.send(self.instance_id, lambda now, id_: EventRaised(now, name, payload, id_), key)
        else:
            message = client.new_message(self.instance_id, lambda now, id_: EventRaised(now, name, payload, id_), key)
            await send_in(client, session, message)

    async def suspend(self, reason: str | None = None) -> None:
        """Have the instance stand still: what arrives waits, and nothing runs until :meth:`resume`."""
        await self._client().send(self.instance_id, lambda now, id_: ExecutionSuspended(now, reason, id_))

    async def resume(self, reason: str | None = None) -> None:
        """Have a suspended instance go on with what has arrived meanwhile."""
        await self._client().send(self.instance_id, lambda now, id_: ExecutionResumed(now, reason, id_))

    async def cancel(self, reason: str | None = None) -> None:
        """Cancel the orchestrator: CancelledError at its await, so that it can clean up; it ends as Canceled."""
        await self._client().send(
            self.instance_id, lambda now, id_: ExecutionCancelRequested(now, reason, message_id=id_)
        )

    async def terminate(self, reason: object = None, *, recursive: bool = True, compensate: bool = False) -> None:
        """End the instance as Terminated, without asking its code; ``reason`` becomes its output.

        Its sub-orchestrations end, too, unless they are to be abandoned, or ``recursive`` is False. With ``compensate``
        the code is cancelled first, so that ``finally`` blocks and sagas run; it ends as Terminated all the same.
        """
        output = encode(reason, "the reason")
        if compensate:
            await self._client().send(
                self.instance_id, lambda now, id_: ExecutionCancelRequested(now, "terminated", output, id_)
            )
            return
        await self._client().send(self.instance_id, lambda now, id_: ExecutionTerminated(now, output, recursive, id_))

    async def rewind(self, reason: str | None = None) -> None:
        """Have a failed instance go on from before its first failure.

        What had succeeded is kept, activities and sub-orchestrations that failed run again, and so do those that were
        cut off. Signals and events that it sent after that point are sent again. Durable on return; the status
        shows it when a worker has taken it up, for which this waits a second at most. Raises
        InstanceNotFoundError, and InstanceNotFailedError for any status but Failed.
        """
        record = await self._client().record(self.instance_id)
        if record.status is not RuntimeStatus.FAILED:
            raise InstanceNotFailedError(self.instance_id, record.status.value)
        await self._client().send(
            self.instance_id, lambda now, id_: ExecutionRewound(now, reason=reason, message_id=id_)
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_SHOWN):
                while not await self._client().has_moved(self.instance_id, record.rev):  # noqa: ASYNC110 - a store
                    await asyncio.sleep(_LOOK)

    # --- keeping it

    async def hold(self, reason: str) -> None:
        """Keep the instance from being purged by anybody, until :meth:`release`; durable on return. It runs as before.

        A second hold replaces the reason. Raises InstanceNotFoundError, TypeError or ValueError for no reason.
        """
        if not isinstance(reason, str):
            raise TypeError(f"the reason of a hold must be text, not {reason!r}")
        if not reason.strip():
            raise ValueError("a hold must have a reason")
        await self._client().set_hold(self.instance_id, reason)

    async def release(self) -> None:
        """Take back :meth:`hold`: the instance may be purged again. Raises InstanceNotFoundError."""
        await self._client().set_hold(self.instance_id, None)

    # --- once more, or never again

    async def restart(self, *, new_id: bool = True, instance_id: str | None = None) -> InstanceHandle[R]:
        """Start a new instance with the name, input, version and tags of this one, and return its handle.

        It has a new id, or ``instance_id``. With ``new_id`` False it takes the place of this one, which must have
        ended, and whose history goes. The input is that of the current execution. Children that were called with ids
        of their own keep these, so the new instance's calls of them fail as long as the former ones are there.

        Raises:
            InstanceNotFoundError: there is no such instance.
            InstanceNotFinishedError: it runs, and was to be replaced.
            InstanceExistsError: ``instance_id`` is in use.
            ValueError: ``instance_id`` breaks a rule or comes with ``new_id`` False; the instance is an entity.
        """
        started = await restart(self._client(), self.instance_id, new_id=new_id, as_id=instance_id)
        return InstanceHandle(started, self._client, self._definition)

    async def fork(
        self, *, from_event: int | None = None, version: str | None = None, instance_id: str | None = None
    ) -> InstanceHandle[R]:
        """Start a new instance that shares the history of this one up to and including event number ``from_event``.

        The number is the event's place in :meth:`history`, from 0; it must be the outcome of something awaited, and
        defaults to the last one. What had succeeded by then is not run again and nothing is sent again; activities,
        sub-orchestrations and calls of entities that were outstanding are asked for again by the fork, under ids of its
        own; timers fire when they were to. ``version`` is the version that the fork has from there on.

        Raises:
            InstanceNotFoundError: there is no such instance.
            InstanceExistsError: ``instance_id`` is in use.
            ValueError: no fork can begin there, which names the nearest events; or the instance is an entity.
        """
        forked = await fork(self._client(), self.instance_id, from_event=from_event, version=version, as_id=instance_id)
        return InstanceHandle(forked, self._client, self._definition)

    async def purge(self, *, recursive: bool = True) -> int:
        """Delete the instance, which must have ended, and its sub-orchestrations; return how many instances went.

        Those that still run are left, and so are instances that it started and did not wait for. Children go before
        it, so what a crash interrupts can be done again. Raises InstanceNotFoundError, InstanceNotFinishedError,
        InstanceHeldError.
        """
        return await purge(self._client(), self.instance_id, recursive=recursive)

    # --- looking at it

    async def history(self, *, execution_id: str | None = None) -> list[HistoryEvent]:
        """The events of an execution so far, by default of the current one, in order; of a former one as long as it is
        kept. Raises InstanceNotFoundError, also for an execution that is not there.
        """
        return await read_history(self._client(), self.instance_id, execution_id)

    async def executions(self) -> list[str]:
        """The ids of the executions whose history is there, newest first: the current one, then those before it that
        continued as new, of which the setting ``keep_executions`` says how many are kept. Raises InstanceNotFoundError.
        """
        return await executions(self._client(), self.instance_id)

    def __repr__(self) -> str:
        return f"<instance {self.instance_id!r}>"


def _raise_unless_completed(record: InstanceRecord) -> None:
    failure = record.failure or FailureDetails("builtins.Exception", "no details were recorded")
    match record.status:
        case RuntimeStatus.FAILED:
            raise OrchestrationFailedError(record.instance_id, failure)
        case RuntimeStatus.CANCELED:
            raise OrchestrationCanceledError(record.instance_id, failure.message or None)
        case RuntimeStatus.TERMINATED:
            raise OrchestrationTerminatedError(record.instance_id, decode(record.output or "null"))


def status_of(record: InstanceRecord) -> InstanceStatus:
    """What users see of a record."""
    begins_at = scheduled_for(record)
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
        tags=own_tags(record),
        parent_instance_id=None if record.parent is None else record.parent.instance_id,
        root_instance_id=record.instance_id if record.parent is None else record.parent.root_instance_id,
        purge_at=None if record.purge_at is None else to_datetime(record.purge_at),
        hold=record.hold,
        scheduled_start_at=None if begins_at is None else to_datetime(begins_at),
        forked_from=origin_of(record),
    )
