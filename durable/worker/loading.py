"""Loading: from the store to a live instance, by replaying its history in slices."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from time import perf_counter

from durable.backend import Annotation, Backend, BackendError, Checkpoint, Commit, InstanceRecord, Message
from durable.clock import Clock
from durable.core.errors import UnsupportedHistoryError
from durable.core.events import (
    ExecutionRewound,
    ExecutionStarted,
    ExecutionTerminated,
    TaskCompleted,
    TaskDeferred,
    TaskFailed,
    TaskScheduled,
)
from durable.core.ids import earlier_execution_id, is_entity
from durable.core.rewinding import effective, kept_answers, last_task, rewind_point
from durable.core.state import RuntimeStatus
from durable.offload import restore_checkpoints, restore_record
from durable.scheduling import scheduled_for
from durable.worker.activities import Key
from durable.worker.catching import Catching, RewoundHistory
from durable.worker.executions import Executions, live_class
from durable.worker.live import (
    Absorbed,
    Item,
    LiveInstance,
    entity_record,
    is_addressed,
    outdated,
    project,
    start_event,
)
from durable.worker.loaded import Early, Gone, Loaded, answered_from_outside
from durable.worker.mailboxes import note_read, page_for
from durable.worker.measures import Measures
from durable.worker.reading import Reader
from durable.worker.retention import Retention
from durable.worker.rewinds import answer_again, go_back
from durable.worker.watchdog import Watchdog

SLICE = 0.005
"""Seconds of replay after which the host's loop gets its turn."""

PAGE = 200

_LOOKS = 14
"""How often to look for a record and a history that agree; the pauses double, to eight seconds at last."""


class Loader:
    """Builds live instances from the store."""

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        executions: Executions,
        clock: Clock,
        watchdog: Watchdog,
        is_running: Callable[[Key], bool],
        keep_executions: int,
        recovered: Callable[[Sequence[Commit]], None],
        retention: Retention,
        measures: Measures | None = None,
    ) -> None:
        self._measures = measures
        self._backend = backend
        self._count = partition_count
        self._executions = executions
        self._clock = clock
        self._watchdog = watchdog
        self._runtime = f"python {platform.python_version()}, anyio {version('anyio')}"
        self._is_running = is_running
        self._keep = keep_executions
        self._recovered = recovered
        self._retention = retention
        self._reader = Reader(backend)

    def fresh(self, record: InstanceRecord, *, inert: bool = False) -> LiveInstance:
        """A live instance whose execution has no history yet; its start event is in the mailbox.

        Raises:
            UnknownFunctionError: its orchestrator is not registered here.
        """
        started = start_event(record, self._clock(), self._runtime)
        execution = None if inert else self._executions.begin(started, record.version)
        recoveries = record.recoveries
        return live_class(record.instance_id)(
            record, execution, self._count, mailbox=[started], rev=record.rev, recoveries=recoveries
        )

    async def load(
        self,
        instance_id: str,
        execution_id: str | None = None,
        mailbox: Sequence[Item] = (),
        *,
        inert: bool = False,
        whole: bool = False,
    ) -> Loaded | Gone | Early:
        """Replay ``instance_id`` from its history, and put what is in its inbox into its mailbox.

        Activities whose outcome waits in ``mailbox``, the one of that execution, are not outstanding any more.
        ``inert`` leaves the code out: the instance can only be ended. Its inbox is read as a whole then, and with
        ``whole``; else only its beginning is, where it is long.

        Raises:
            UnknownFunctionError: its orchestrator is not registered here.
            NonDeterminismError: the code does not agree with the history.
            UnsupportedHistoryError: the history was written by a newer version.
            BackendUnavailable: the store did not answer.
            BackendError: record and history contradict each other: the store breaks a promise.
        """
        for look in range(_LOOKS):
            if look:  # its record did not show yet that it had ended or continued as new, or another owner wrote
                await asyncio.sleep(0.001 * 2**look)
            stored = await self._reader.record(instance_id)
            if stored is None and is_entity(instance_id):
                return await self._new_entity(instance_id, mailbox)
            if stored is None or stored.status.is_terminal:
                return await self._ended(instance_id, stored)
            begins_at, seen = scheduled_for(stored), len(mailbox)  # before the inbox is read
            if begins_at is not None and begins_at > self._clock() and not await self._is_ended_before(stored):
                return Early(begins_at, seen)
            record = await restore_record(self._backend, stored)
            loaded = await self._from_history(record, mailbox if execution_id == record.execution_id else (), inert)
            if loaded is None:
                continue
            loaded.seen = len(mailbox)  # before the inbox is read: what comes meanwhile may not be in there
            if await self._with_inbox(loaded, inert or whole):
                if self._measures is not None:
                    self._measures.replayed(loaded.instance)
                return loaded
        raise BackendError(f"the record of instance {instance_id!r} does not show what its history holds")

    async def _with_inbox(self, loaded: Loaded, whole: bool) -> bool:
        """Read its inbox as well; False, and discarded, when that shows that the history was read too early."""
        instance = loaded.instance
        instance.told = set()
        try:
            is_up_to_date = await self._read_inbox(instance, whole)
        except BaseException:
            _discard(instance)
            raise
        if not is_up_to_date:
            _discard(instance)
            return False
        answered = answered_from_outside(instance)
        loaded.outstanding = [each for each in loaded.outstanding if each[0].task_id not in answered]
        return True

    async def _is_ended_before(self, record: InstanceRecord) -> bool:
        """Whether an instance that is not to begin yet is to be terminated."""
        messages = await self._backend.receive([record.instance_id])
        ends = (one for one in messages if type(one.event) is ExecutionTerminated)
        return any(is_addressed(one, record.execution_id) for one in ends)

    async def _read_inbox(self, instance: LiveInstance, whole: bool) -> bool:
        """Put what is in the inbox into the mailbox; False when that shows that the history was read too early."""
        limit = None if whole else page_for(None)
        name = instance.instance_id
        messages = await (self._backend.receive([name]) if whole else self._reader.inbox(name))
        note_read(instance, messages, limit)
        ahead = frozenset(message.message_id for message in messages if instance.is_ahead(message))
        execution_id, seq = instance.record.execution_id, instance.next_seq
        if ahead and await self._backend.load(instance.instance_id, execution_id, from_seq=seq, limit=1):
            return False
        instance.unasked = ahead
        instance.mailbox += messages
        return True

    async def _ended(self, instance_id: str, stored: InstanceRecord | None) -> Loaded | Gone:
        messages = await self._backend.receive([instance_id])
        if stored is None:
            return Gone(messages)
        rewinds = (one for one in messages if type(one.event) is ExecutionRewound)
        rewind = next((one for one in rewinds if is_addressed(one, stored.execution_id)), None)
        if rewind is None:
            return Gone(messages)
        record = await restore_record(self._backend, stored)
        if record.status is RuntimeStatus.COMPLETED:
            return Gone(messages, answer_again(record, rewind, self._count))
        return await self._rewind(record, rewind, [message for message in messages if message is not rewind])

    async def _rewind(self, record: InstanceRecord, rewind: Message, others: list[Message]) -> Loaded:
        """An instance that ended badly, as it was before its first failure."""
        checkpoints = [checkpoint async for page in self._pages(record) for checkpoint in page]
        events = effective([checkpoint.events for checkpoint in checkpoints])
        run = 1 + sum(type(checkpoint.events[0]) is ExecutionRewound for checkpoint in checkpoints)
        execution = self._executions.begin(_started(checkpoints[0]), record.version, lambda: run)
        instance = LiveInstance(record, execution, self._count, recoveries=record.recoveries, run=run)
        instance.former_task = max(last_task(checkpoint.events) for checkpoint in checkpoints)
        instance.mailbox += [*go_back(instance, rewind, events), *others]
        instance.next_seq, instance.rev = checkpoints[-1].seq + 1, checkpoints[-1].rev
        instance.unasked = frozenset(message.message_id for message in others if instance.is_ahead(message))
        keep = rewind_point(events)
        try:
            await self._in_slices(record.instance_id, self._executions.replay(execution, events[:keep]))
        except BaseException:
            execution.discard()
            raise
        if self._measures is not None:
            self._measures.replayed(instance)
        return Loaded(instance, [])

    async def _new_entity(self, instance_id: str, mailbox: Sequence[Item]) -> Loaded | Gone:
        """An entity comes to be when the first message asks for it."""
        seen = len(mailbox)
        messages = await self._reader.inbox(instance_id)
        if not messages:
            return Gone(())
        instance = self.fresh(entity_record(instance_id, self._count, self._clock()))
        instance.created = False
        instance.mailbox += messages
        note_read(instance, messages, page_for(None))
        return Loaded(instance, [], seen)

    async def _from_history(
        self, record: InstanceRecord, answers: Sequence[Item], inert: bool, *, rewound: bool = False
    ) -> Loaded | None:
        pages = self._pages(record)
        first = await anext(pages, None)
        if first is None:
            await self._mark_former(record)
            return Loaded(self.fresh(record, inert=inert), [])
        execution = None
        if not inert:
            execution = self._executions.begin(_started(first[0]), record.version, lambda: instance.run)
        kind = live_class(record.instance_id)
        instance = kind(record, execution, self._count, recoveries=record.recoveries)
        if self._measures is not None:
            self._measures.ready(instance)
        try:
            outstanding = await self._catch_up(Catching(instance, [] if rewound else None), first, pages, answers)
        except RewoundHistory:
            _discard(instance)
            return await self._from_history(record, answers, inert, rewound=True)
        except BaseException as error:
            _discard(instance)  # or the garbage collector would end its code, as if it ran
            if self._measures is not None:
                self._measures.not_replayed(instance, error)
            raise
        if outstanding is None:
            _discard(instance)
            return None
        return Loaded(instance, outstanding)

    async def _mark_former(self, record: InstanceRecord) -> None:
        """Mark the messages that the execution before took in: its successor could not tell them from new ones.

        Its owner may have died after the record showed the successor, and before that.
        """
        former = earlier_execution_id(record.execution_id, 1)
        if former is None or self._backend.settles_on_commit:
            return
        async for page in self._pages(replace(record, execution_id=former)):
            await self._settle([Commit(checkpoint, record, consumed=_taken_in(checkpoint)) for checkpoint in page])

    async def _settle(self, commits: Sequence[Commit]) -> None:
        """Settle what another worker committed; what was taken in is put into the inbox before, where it is not there.

        The turn that sent it may not be settled: sent after it was marked, it would be taken in again.
        """
        taken = [
            Message(message_id, one.record.instance_id, one.record.partition, event.timestamp, event)
            for one in commits
            for event in one.checkpoint.events
            if (message_id := getattr(event, "message_id", None)) is not None
        ]
        await self._backend.send(taken)
        await self._backend.settle(commits)

    async def _catch_up(
        self,
        catching: Catching,
        page: list[Checkpoint],
        pages: AsyncIterator[list[Checkpoint]],
        answers: Sequence[Item],
    ) -> list[tuple[TaskScheduled, int]] | None:
        """Replay all pages and settle what was left; what to deliver again, or None when the execution has ended."""
        instance = catching.instance
        await self._replay(catching, page)
        async for page in pages:
            await self._replay(catching, page)
        if catching.events is not None and instance.execution is not None:
            replay = self._executions.replay(instance.execution, catching.events)
            await self._in_slices(instance.instance_id, replay)
        if catching.unsettled:
            # A crash fell between the commit and what follows from it.
            await self._settle(catching.unsettled)
            self._recovered(catching.unsettled)
        if instance.state.status.is_terminal or instance.state.continued is not None:
            return None
        return await self._outstanding(instance, answers, catching.scheduled_at)

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

    async def _replay(self, catching: Catching, page: list[Checkpoint]) -> None:
        instance = catching.instance

        def turns() -> Iterator[None]:
            later = page
            if catching.events is None:
                if any(type(checkpoint.events[0]) is ExecutionRewound for checkpoint in page):
                    raise RewoundHistory
                if instance.execution is not None:
                    events = chain.from_iterable([checkpoint.events for checkpoint in page])
                    yield from self._executions.replay(instance.execution, events)
                later = catching.recall(page)
            for checkpoint in later:
                if type(checkpoint.events[0]) is ExecutionRewound:
                    catching.go_back(checkpoint.events[0])
                if catching.events is not None:
                    catching.events += checkpoint.events
                instance.next_seq, instance.rev = checkpoint.seq, checkpoint.rev
                absorbed = instance.absorb(checkpoint.events)
                if checkpoint.recoveries or catching.events is not None:  # a rewound task may be scheduled again
                    catching.note_recoveries(checkpoint)
                if checkpoint.rev > instance.record.rev:
                    catching.unsettled.append(self._settlement(instance, checkpoint, absorbed))
                instance.next_seq += 1

        await self._in_slices(instance.instance_id, turns())

    def _settlement(self, instance: LiveInstance, checkpoint: Checkpoint, absorbed: Absorbed) -> Commit:
        """What follows from a checkpoint that the store's record does not show yet."""
        record = project(instance, self._retention)
        drops = () if instance.state.continued is None else outdated(record.execution_id, self._keep)
        return Commit(checkpoint, record, False, absorbed.messages, _taken_in(checkpoint), absorbed.starts, drops)

    async def _in_slices(self, instance_id: str, steps: Iterator[None]) -> None:
        """Run ``steps`` and let the host's loop go on every few milliseconds."""
        finished = False
        while not finished:
            deadline = perf_counter() + SLICE
            self._watchdog.turn = instance_id, perf_counter()
            try:
                finished = all(perf_counter() < deadline for _ in steps)
            finally:
                self._watchdog.turn = None
            await asyncio.sleep(0)

    async def _outstanding(
        self, instance: LiveInstance, mailbox: Sequence[Item], scheduled_at: dict[int, int]
    ) -> list[tuple[TaskScheduled, int]]:
        """What to deliver again. The delivery is counted in the store first: it may kill this worker, too."""
        record = instance.record
        heard = (*mailbox, *instance.state.again)
        answered = {event.task_id for event in heard if isinstance(event, TaskCompleted | TaskFailed | TaskDeferred)}
        answered |= instance.state.answers.keys()
        missing = [task for task in instance.state.activities.values() if task.task_id not in answered]
        place = record.instance_id, record.execution_id
        lost = [task for task in missing if task.queue is None and not self._is_running((*place, task.task_id))]
        instance.heartbeats = dict(record.heartbeats or {})
        instance.mailbox += [*kept_answers(instance.state, instance.state.last_timestamp), *instance.state.again]
        if lost:
            instance.recoveries += 1
            note = Annotation(record.instance_id, instance.rev, None, instance.recoveries, record.heartbeats)
            await self._backend.annotate([note])
        instance.queued = {task.task_id: task.queue.name for task in missing if task.queue is not None}
        offered = [(task, 2) for task in missing if task.queue is not None]  # again: their queue counts
        return offered + [(task, instance.recoveries - scheduled_at.get(task.task_id, 0) + 1) for task in lost]


def _taken_in(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Ids of the messages that a turn took in."""
    ids = (getattr(event, "message_id", None) for event in checkpoint.events)
    return tuple(message_id for message_id in ids if message_id is not None)


def _discard(instance: LiveInstance) -> None:
    if instance.execution is not None:
        instance.execution.discard()


def _started(first: Checkpoint) -> ExecutionStarted:
    event = first.events[0]
    if not isinstance(event, ExecutionStarted):
        raise UnsupportedHistoryError(f"the history of {first.instance_id!r} does not begin with ExecutionStarted")
    return event
