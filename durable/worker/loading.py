"""Loading: from the store to a live instance, by replaying its history in slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from durable.backend import Annotation, Backend, Checkpoint, Commit, InstanceRecord
from durable.clock import Clock
from durable.core.errors import UnsupportedHistoryError
from durable.core.events import (
    ArrivedEvent,
    ExecutionStarted,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    split_turns,
)
from durable.core.replay import Orchestration
from durable.offload import restore_checkpoints, restore_record
from durable.registry import Registry
from durable.worker.activities import Key
from durable.worker.live import LiveInstance, project, start_event
from durable.worker.services import WorkerServices
from durable.worker.watchdog import Watchdog

SLICE = 0.005
"""Seconds of replay after which the host's loop gets its turn."""

PAGE = 200


@dataclass(slots=True)
class Loaded:
    """A live instance, and its outstanding activities with the number of the delivery each is to get (R3)."""

    instance: LiveInstance
    outstanding: list[tuple[TaskScheduled, int]]


class Loader:
    """Builds live instances from the store."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        clock: Clock,
        watchdog: Watchdog,
        runtime: str,
        is_running: Callable[[Key], bool],
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._clock = clock
        self._watchdog = watchdog
        self._runtime = runtime
        self._is_running = is_running
        self._services = WorkerServices(registry)

    def fresh(self, record: InstanceRecord) -> LiveInstance:
        """A live instance that has no history yet; its start event is in the mailbox.

        Raises:
            UnknownFunctionError: its orchestrator is not registered here.
        """
        started = start_event(record, self._clock(), self._runtime)
        return LiveInstance(record, self._orchestration(started), mailbox=[started])

    async def load(
        self, instance_id: str, execution_id: str | None = None, mailbox: Sequence[ArrivedEvent] = ()
    ) -> Loaded | None:
        """Replay ``instance_id`` from its history; None when it does not exist or has ended.

        Activities whose outcome waits in ``mailbox``, the one of that execution, are not outstanding any more.

        Raises:
            UnknownFunctionError: its orchestrator is not registered here.
            NonDeterminismError: the code does not agree with the history.
            UnsupportedHistoryError: the history was written by a newer version.
            BackendUnavailable: the store did not answer.
        """
        stored = (await self._backend.get([instance_id]))[0]
        if stored is None or stored.status.is_terminal:
            return None
        record = await restore_record(self._backend, stored)
        pages = self._pages(record)
        first = await anext(pages, None)
        if first is None:
            return Loaded(self.fresh(record), [])
        instance = LiveInstance(record, self._orchestration(_started(first[0])), recoveries=record.recoveries)
        answers = mailbox if execution_id == record.execution_id else ()
        try:
            outstanding = await self._catch_up(instance, first, pages, answers)
        except BaseException:
            instance.orchestration.discard()  # or the garbage collector would end its code, as if it ran
            raise
        if outstanding is None:
            instance.orchestration.discard()
            return None
        return Loaded(instance, outstanding)

    async def _catch_up(
        self,
        instance: LiveInstance,
        page: list[Checkpoint],
        pages: AsyncIterator[list[Checkpoint]],
        answers: Sequence[ArrivedEvent],
    ) -> list[tuple[TaskScheduled, int]] | None:
        """Replay all pages and settle what was left; what to deliver again, or None when the instance has ended."""
        scheduled_at: dict[int, int] = {}
        await self._replay(instance, page, scheduled_at)
        last = page[-1]
        async for page in pages:
            await self._replay(instance, page, scheduled_at)
            last = page[-1]
        if last.rev > instance.record.rev:
            # A crash fell between the commit and what follows from it.
            settled = project(instance.record, instance.state, last.rev, instance.recoveries)
            await self._backend.settle([Commit(last, settled)])
        if instance.state.status.is_terminal:
            return None
        return await self._outstanding(instance, answers, scheduled_at)

    async def _pages(self, record: InstanceRecord) -> AsyncIterator[list[Checkpoint]]:
        seq = 0
        while True:
            page = await self._backend.load(record.instance_id, record.execution_id, from_seq=seq, limit=PAGE)
            if not page:
                return
            yield await restore_checkpoints(self._backend, page)
            seq = page[-1].seq + 1
            if len(page) < PAGE:
                return

    async def _replay(self, instance: LiveInstance, page: list[Checkpoint], scheduled_at: dict[int, int]) -> None:
        def turns() -> Iterator[None]:
            for checkpoint in page:
                yield from instance.orchestration.replay(split_turns(checkpoint.events))
                instance.absorb(checkpoint.events)
                for event in checkpoint.events:
                    if type(event) is TaskScheduled:
                        scheduled_at[event.task_id] = checkpoint.recoveries
                instance.next_seq, instance.rev = checkpoint.seq + 1, checkpoint.rev

        await self._in_slices(instance.instance_id, turns())

    async def _in_slices(self, instance_id: str, steps: Iterator[None]) -> None:
        """Run ``steps`` and let the host's loop go on every few milliseconds."""
        finished = False
        while not finished:
            deadline = perf_counter() + SLICE
            self._watchdog.turn_begins(instance_id)
            try:
                finished = all(perf_counter() < deadline for _ in steps)
            finally:
                self._watchdog.turn_ends()
            await asyncio.sleep(0)

    async def _outstanding(
        self, instance: LiveInstance, mailbox: Sequence[ArrivedEvent], scheduled_at: dict[int, int]
    ) -> list[tuple[TaskScheduled, int]]:
        """What to deliver again. The delivery is counted in the store first: it may kill this worker, too."""
        record = instance.record
        answered = {event.task_id for event in mailbox if isinstance(event, TaskCompleted | TaskFailed)}
        lost = [
            task
            for task in instance.state.activities.values()
            if task.task_id not in answered
            and not self._is_running((record.instance_id, record.execution_id, task.task_id))
        ]
        if lost:
            instance.recoveries += 1
            note = Annotation(record.instance_id, instance.rev, None, instance.recoveries)
            await self._backend.annotate([note])
        return [(task, instance.recoveries - scheduled_at[task.task_id] + 1) for task in lost]

    def _orchestration(self, started: ExecutionStarted) -> Orchestration:
        definition = self._registry.find_orchestrator(started.name)
        return Orchestration(started, definition.begin, self._services)


def _started(first: Checkpoint) -> ExecutionStarted:
    event = first.events[0]
    if not isinstance(event, ExecutionStarted):
        raise UnsupportedHistoryError(f"the history of {first.instance_id!r} does not begin with ExecutionStarted")
    return event
