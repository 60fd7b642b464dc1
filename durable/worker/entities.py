"""Entities in memory: batches of operations, run one after the other, committed together.

Rule of this file: an operation and its outcome, its messages and the new state are one commit. What is not
committed never happened, and its messages come again; what an operation that raised has done is undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from uuid import uuid4

import orjson

from durable.backend import Message
from durable.core import events as ev
from durable.core.codec import event_from_dict
from durable.core.entity import admitted, lock, section_of
from durable.core.errors import FailureDetails
from durable.core.ids import EntityId, next_execution_id
from durable.entities import DELETE, Entity
from durable.entity_context import EntityContext
from durable.instrument import Instrument, LiveSpan
from durable.payloads import encode
from durable.registry import Registry
from durable.worker.live import MAX_ARRIVED, LiveInstance

ROLL_AT = 2000
"""History rows after which an entity goes on in a new execution, so that its history stays short."""

MAX_TRACES = 256 * 1024
"""Characters kept of what the operations of a batch put on their spans; what is beyond is left out."""

Operation: TypeAlias = ev.EntityOperationCalled | ev.EntityOperationSignaled


@dataclass(slots=True, eq=False)
class LiveEntity(LiveInstance):
    """An entity in memory."""

    def current(self) -> ev.EntityStateSet:
        """The entity as the last batch has left it, or the execution before."""
        if self.state.entity is not None:
            return self.state.entity
        stored: Any = orjson.loads(self.record.input)
        if stored is None:
            return ev.EntityStateSet(self.record.created_at)
        entity = event_from_dict(stored)
        assert isinstance(entity, ev.EntityStateSet)
        return entity

    def take_arrived(self, now: int) -> list[Any]:
        """The requests for the next batch, in the order in which they are to be dealt with."""
        if self.execution is None:
            return []
        waiting: list[tuple[Message, Any]] = []
        first: list[Any] = []
        seen: set[str] = set()
        for item in self.mailbox:
            if type(item) is not Message:
                if type(item) is ev.ExecutionStarted and self.state.accepts(item):
                    first.append(item)
            elif item.message_id in self.done:
                continue  # here before; the commit that took it in marks it
            elif not _is_request(item.event) or item.message_id in self.state.taken:
                self.refuse(item)
            elif item.message_id not in seen:
                seen.add(item.message_id)
                waiting.append((item, item.event))
        current = self.current()
        taken = admitted(current.locked_by, waiting, MAX_ARRIVED)
        ids = {message.message_id for message in taken}
        self.mailbox = [message for message, _ in waiting if message.message_id not in ids]
        self.taken = [*first, *taken]
        arrived = [*first, *(message.event for message in taken)]
        if current.locked_by is None and (due := [s.scheduled_at or 0 for s in current.scheduled]) and min(due) <= now:
            arrived.append(ev.TimerFired(now, 0, min(due)))
        return arrived

    def put_back(self, events: tuple[ev.HistoryEvent, ...]) -> None:
        """Nothing: a batch takes in all that it is given."""


def _is_request(event: ev.HistoryEvent) -> bool:
    return isinstance(
        event, ev.EntityOperationCalled | ev.EntityOperationSignaled | ev.EntityLockRequested | ev.EntityUnlockSent
    )


class EntityExecution:
    """Runs the batches of one entity."""

    def __init__(
        self, entity_id: EntityId, definition: Entity, registry: Registry, instrument: Instrument | None = None
    ) -> None:
        self._instrument = instrument
        self._id = entity_id
        self._definition = definition
        self._registry = registry
        self._task: asyncio.Task[Any] | None = None

    def turn(self, arrived: list[Any], timestamp: int) -> Any:
        """Not for entities: their batches may wait, see :meth:`batch`."""
        raise NotImplementedError

    def discard(self) -> None:
        """Give up the batch under way; nothing of it happened."""
        if self._task is not None:
            self._task.cancel()

    def begin(self, instance: LiveEntity, arrived: list[Any], timestamp: int) -> asyncio.Task[Any]:
        """Run a batch; the task's result is the turn's events."""
        begin = None if self._instrument is None else partial(self._instrument.operation, instance.record)
        batch = _Batch(self._id, self._definition, self._registry, instance.current(), timestamp, begin)
        length, execution_id = instance.state.length, instance.record.execution_id
        # An empty context, or the operations would see the variables of whoever happened to deliver the message.
        self._task = asyncio.get_running_loop().create_task(batch.run(arrived, length, execution_id), context=Context())
        return self._task


class _Batch:
    """One batch of operations."""

    def __init__(
        self,
        entity_id: EntityId,
        definition: Entity,
        registry: Registry,
        before: ev.EntityStateSet,
        timestamp: int,
        begin: Callable[[Operation], LiveSpan | None] | None,
    ) -> None:
        self._begin = begin
        self._traces: list[tuple[str, str]] = []
        self._room = MAX_TRACES
        self._id = entity_id
        self._definition = definition
        self._registry = registry
        self._now = timestamp
        self._payload = before.state
        self._state: Any = None
        self._locked_by = before.locked_by
        self._scheduled = list(before.scheduled)
        self._decisions: list[Any] = []

    async def run(self, arrived: list[Any], length: int, execution_id: str) -> tuple[ev.HistoryEvent, ...]:
        """Deal with all requests, then with the scheduled signals that are due; the turn's events."""
        released: set[object] = {section_of(event) for event in arrived if isinstance(event, ev.EntityUnlockSent)}
        for event in arrived:
            await self._deal_with(event, released)
        await self._run_scheduled()
        after = ev.EntityStateSet(self._now, self._payload, self._locked_by, tuple(self._scheduled))
        traced = replace(after, traces=tuple(self._traces)) if self._traces else after
        events = [*arrived, ev.OrchestratorStarted(self._now), *self._decisions, traced]
        if length + len(events) >= ROLL_AT:
            stored = orjson.dumps(after).decode()
            events.append(ev.ContinueAsNew(self._now, next_execution_id(execution_id), stored))
        return (*events, ev.OrchestratorCompleted(self._now))

    async def _deal_with(self, event: Any, released: set[object]) -> None:
        match event:
            case ev.EntityUnlockSent():
                if section_of(event) == self._locked_by:
                    self._locked_by = None
            case ev.EntityLockRequested():
                if self._locked_by is None and section_of(event) not in released:
                    self._locked_by = section_of(event)
                    self._decisions.append(lock(event, self._now))
            case ev.EntityOperationSignaled() if (event.scheduled_at or 0) > self._now:
                self._scheduled.append(event)
            case ev.EntityOperationSignaled() | ev.EntityOperationCalled():
                await self._operate(event)

    async def _run_scheduled(self) -> None:
        if self._locked_by is not None:
            return
        due = [signal for signal in self._scheduled if (signal.scheduled_at or 0) <= self._now]
        self._scheduled = [signal for signal in self._scheduled if (signal.scheduled_at or 0) > self._now]
        for signal in sorted(due, key=lambda one: one.scheduled_at or 0):
            await self._operate(signal)

    async def _operate(self, event: Operation) -> None:
        """Run one operation: all of it counts, or nothing but its failure."""
        called = isinstance(event, ev.EntityOperationCalled)
        caller = (event.caller_id, event.caller_execution_id) if isinstance(event, ev.EntityOperationCalled) else ()
        context = self._context(event)
        live = None if self._begin is None else self._begin(event)
        try:
            result = await self._invoke(event, context)
            payload = encode(result, f"the result of operation {event.operation!r} of {self._id}")
            state = None if context.deleted else self._definition.encode_state(self._state)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the batch is given up
            self._state = None  # made again from what was before
            self._decisions.append(
                ev.EntityOperationFailed(self._now, event.task_id, FailureDetails.of(error), *caller)
            )
            return
        finally:
            self._keep_recorded(event, live)
        self._payload = state
        if state is None:
            self._state = None
        self._decisions += context.decisions
        if called:
            self._decisions.append(ev.EntityOperationCompleted(self._now, event.task_id, payload, *caller))

    def _keep_recorded(self, event: Operation, live: LiveSpan | None) -> None:
        text = None if live is None else live.recorded()
        if text is not None and event.message_id is not None and len(text) <= self._room:
            self._room -= len(text)
            self._traces.append((event.message_id, text))

    def _context(self, event: Operation) -> EntityContext:
        return EntityContext(
            self._id,
            event.operation,
            self._now,
            self._payload is None,
            event.caller_id if isinstance(event, ev.EntityOperationCalled) else None,
            lambda: uuid4().hex,
            self._registry.orchestrator_target,
            self._registry.operation_target,
        )

    async def _invoke(self, event: Any, context: EntityContext) -> Any:
        if event.operation == DELETE and DELETE not in self._definition.operations:
            context.delete()
            return None
        operation = self._definition.operation(event.operation)
        args, kwargs = operation.codec.decode_arguments(event.input)
        if self._state is None:
            stored = self._payload
            self._state = self._definition.cls() if stored is None else self._definition.decode_state(stored)
        context.enter()
        result = operation.fn(self._state, *args, **kwargs)
        return await result if operation.is_async else result
