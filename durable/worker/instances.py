"""Instances in memory: mailboxes, turns, and the sticky cache.

Rule of this file: one turn of an instance is under way at a time - run, committed, and only then
followed by its effects. What happens to the instance meanwhile waits in its mailbox. An
instance that is not here can always be loaded again; dropping one loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter
from uuid import uuid4

from durable.backend import Checkpoint, Commit, CommitOutcome, Message
from durable.clock import Clock
from durable.core.closing import fail_for_length, terminate
from durable.core.events import ExecutionRewound, ExecutionTerminated, HistoryEvent, TaskCancelRequested, TaskScheduled
from durable.core.rewinding import kept_answers
from durable.offload import THRESHOLD
from durable.settings import Settings
from durable.worker.committer import Committer
from durable.worker.effects import Effects
from durable.worker.entities import EntityExecution, LiveEntity
from durable.worker.lengths import Lengths
from durable.worker.live import Item, LiveInstance, Phase, Turn, outdated, project
from durable.worker.measures import Measures
from durable.worker.retention import Retention
from durable.worker.watchdog import Watchdog

SLICE = 0.005
"""Seconds of turns after which the host's loop gets its turn."""

_CAUSING = frozenset({TaskScheduled, ExecutionRewound, TaskCancelRequested})
"""The kinds of events that something in this process follows from."""


class Instances:
    """The live instances of one worker."""

    def __init__(
        self,
        committer: Committer,
        effects: Effects,
        clock: Clock,
        settings: Settings,
        watchdog: Watchdog,
        retention: Retention,
        measures: Measures | None = None,
    ) -> None:
        self._measures = measures
        self._committer = committer
        self._effects = effects
        self._clock = clock
        self._settings = settings
        self._watchdog = watchdog
        self._retention = retention
        self._lengths = Lengths(settings)
        self._live: dict[str, LiveInstance] = {}
        self.get = self._live.get
        """The live instance of an id, if it is in memory. The dictionary's own method: it is asked at every step."""
        self._idle: OrderedDict[str, LiveInstance] = OrderedDict()
        self._idle_bytes = 0
        self._most_idle = max(settings.cache_instances, 1)
        self._most_bytes = settings.cache_bytes
        self._ready: deque[LiveInstance] = deque()
        self._scheduled = False
        self._tokens = 0
        self._token_prefix = uuid4().hex[:12]

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveInstance]:
        return iter(list(self._live.values()))

    def add(self, instance: LiveInstance) -> None:
        """Take in an instance that was loaded or is new, and run what is in its mailbox."""
        self._live[instance.instance_id] = instance
        self._make_ready(instance)

    def deliver(self, instance: LiveInstance, items: Iterable[Item]) -> None:
        """Put events into the mailbox and look for something to do, unless a turn is under way."""
        instance.mailbox.extend(items)
        if instance.phase is Phase.IDLE:
            self._leave_idle(instance)
            self._make_ready(instance)

    def drop(self, instance: LiveInstance) -> None:
        """Forget an instance at once, whatever it is doing."""
        self._leave_idle(instance)
        if self._live.get(instance.instance_id) is instance:
            del self._live[instance.instance_id]
        if instance.execution is not None:
            instance.execution.discard()
        instance.turn = None
        if instance.on_created is not None and instance.phase is not Phase.COMMITTING:
            instance.on_created(None)
            instance.on_created = None

    def overtaken(self, instance: LiveInstance) -> None:
        """Another owner has written on: what is in memory is not what happened, and is loaded again."""
        self.drop(instance)
        self._effects.left(instance, None)

    # --- turns -------------------------------------------------------------------------------

    def _make_ready(self, instance: LiveInstance) -> None:
        instance.phase = Phase.TURNING
        if self._measures is not None:
            self._measures.ready(instance)
        self._ready.append(instance)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_ready)

    def _run_ready(self) -> None:
        """Run turns until none is waiting or the slice is used up; then let the host breathe."""
        self._scheduled = False
        deadline = perf_counter() + SLICE
        while self._ready:
            instance = self._ready.popleft()
            if self._live.get(instance.instance_id) is instance and not self._advance(instance, deadline):
                self._ready.appendleft(instance)
            if perf_counter() >= deadline:
                break
        if self._ready and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run_ready)

    def _advance(self, instance: LiveInstance, deadline: float) -> bool:
        """Run the instance's turn, or a part of it; False when it needs another slice."""
        self._watchdog.turn = instance.instance_id, perf_counter()
        try:
            turn = instance.turn or self._begin(instance)
            while turn is not None:
                events = next(turn)
                if events is not None:
                    self._commit(instance, events)
                    return True
                if perf_counter() >= deadline:
                    return False
        except Exception as error:
            self._failed(instance, error)
        finally:
            self._watchdog.turn = None
        return True

    def _begin(self, instance: LiveInstance) -> Turn | None:
        now = self._clock()
        if self._effects.draining(instance) and instance.can_wait:
            self._rest(instance)
            return None
        arrived = instance.take_arrived(now)
        if instance.refused:
            self._effects.refuse(instance.refused)
            instance.refused = []
        if instance.is_stale:
            self.overtaken(instance)
            return None
        if not arrived:
            if instance.execution is None:
                self.drop(instance)  # brought in to be ended, by a message that was not for it
            elif instance.mailbox and not isinstance(instance, LiveEntity):
                self._make_ready(instance)  # those of this turn were taken in before
            else:
                self._rest(instance)
            return None
        if self._measures is not None:
            self._measures.begins(instance)
        timestamp = instance.turn_time(arrived, now)
        if isinstance(instance.execution, EntityExecution) and isinstance(instance, LiveEntity):
            batch = instance.execution.begin(instance, arrived, timestamp)
            batch.add_done_callback(partial(self._batch_done, instance))
            return None
        if type(arrived[-1]) is ExecutionTerminated:
            instance.turn = iter([terminate(instance.state, arrived, timestamp)])
        elif instance.state.length >= self._lengths.limit and not isinstance(instance, LiveEntity):
            instance.turn = iter([fail_for_length(instance.state, arrived, timestamp, self._lengths.limit)])
        else:
            assert instance.execution is not None  # without its code only a termination is taken in
            instance.turn = instance.execution.turn(arrived, timestamp)
        return instance.turn

    def _batch_done(self, instance: LiveInstance, batch: asyncio.Task[tuple[HistoryEvent, ...]]) -> None:
        """The batch of an entity is through; unless it was dropped meanwhile, the batch is its turn."""
        if self._live.get(instance.instance_id) is not instance:
            return
        error: Exception
        try:
            self._commit(instance, batch.result())
            return
        except asyncio.CancelledError:
            error = RuntimeError("the batch of operations was cancelled")
        except Exception as raised:
            error = raised
        self._failed(instance, error)

    def _failed(self, instance: LiveInstance, error: Exception) -> None:
        """The instance's turn cannot be run."""
        if self._measures is not None:
            self._measures.failed(instance, error)
        self.drop(instance)
        self._effects.left(instance, error)

    def _commit(self, instance: LiveInstance, events: tuple[HistoryEvent, ...]) -> None:
        instance.turn = None
        instance.phase = Phase.COMMITTING
        if not instance.took_outcome:
            instance.put_back(events)
        absorbed = instance.absorb(events)
        instance.rev += 1
        self._tokens += 1
        former = instance.record
        record = project(instance, self._retention)
        checkpoint = Checkpoint(
            record.instance_id,
            former.execution_id,
            instance.next_seq,
            instance.rev,
            f"{self._token_prefix}-{self._tokens}",
            events,
            instance.recoveries,
        )
        instance.next_seq += 1
        consumed: tuple[str, ...] = absorbed.consumed
        drops: tuple[str, ...] = ()
        if instance.state.continued is not None:
            consumed += instance.left_unmarked()
            drops = outdated(record.execution_id, self._settings.keep_executions)
        commit = Commit(checkpoint, record, not instance.created, absorbed.messages, consumed, absorbed.starts, drops)
        large = absorbed.has_large or len(record.custom_status or "") > THRESHOLD
        start = former if commit.create and former.execution_id != record.execution_id else None
        if start is not None:
            commit = replace(commit, create=False)
        self._committer.submit(commit, partial(self._committed, instance, commit), large=large, start=start)

    def _committed(self, instance: LiveInstance, commit: Commit, outcome: CommitOutcome) -> None:
        created, instance.on_created = instance.on_created, None
        if created is not None:
            created(outcome)
        if self._measures is not None:
            self._measures.ended(instance, outcome)
        if self._live.get(instance.instance_id) is not instance:
            self._effects.committed_late(instance.instance_id)
            return
        if outcome is not CommitOutcome.COMMITTED:
            self.overtaken(instance)
            return
        instance.created = True
        instance.failures = 0
        instance.taken = []
        self._cause_effects(instance, commit)
        if instance.state.continued is not None:
            self._continue_as_new(instance, commit)
            return
        instance.record = commit.record
        if instance.state.length >= self._lengths.warning:
            self._lengths.grown(instance, len(commit.checkpoint.events))
        if instance.state.answers:
            instance.mailbox += kept_answers(instance.state, instance.state.last_timestamp)
        self._effects.committed(commit.record)
        if commit.record.status.is_terminal:
            self._end(instance)
        elif instance.mailbox:
            self._make_ready(instance)
        else:
            self._rest(instance)

    def _cause_effects(self, instance: LiveInstance, commit: Commit) -> None:
        outstanding = instance.state.activities
        for event in commit.checkpoint.events:
            if type(event) not in _CAUSING:
                continue
            if type(event) is TaskScheduled:
                if event.task_id in outstanding:  # else it was cancelled within its own turn
                    self._effects.start_activity(instance, event, 1)
            elif type(event) is ExecutionRewound:
                for scheduled in list(outstanding.values()):
                    self._effects.start_activity(instance, scheduled, 1)
            elif type(event) is TaskCancelRequested:
                self._effects.cancel_activity(instance, event.task_id)
        if (commit.messages or commit.starts) and instance.state.continued is None:
            self._effects.send(commit)

    def _end(self, instance: LiveInstance) -> None:
        self.drop(instance)
        # What it took in is marked by settling: until then it may be all that shows that there is something to do.
        left = [i for i in instance.mailbox if type(i) is Message and i.message_id not in instance.done]
        if left:
            self._effects.refuse(left)
        if instance.more:
            self._effects.read_on(instance.instance_id)  # to be marked, too

    # --- continue-as-new -----------------------------------------------------------------------

    def _continue_as_new(self, instance: LiveInstance, commit: Commit) -> None:
        """Put the next execution in the place of this one; it waits until the commit is settled.

        Else a message that this execution took in, and that is not marked yet, could come to the next one again.
        """
        self.drop(instance)
        successor = self._effects.successor(instance, commit.record)
        successor.told = instance.told
        # What is kept comes first, as it came first; the outcomes of former activities matter no more.
        kept = [message for message in commit.messages if message.instance_id == instance.instance_id]
        successor.mailbox += kept
        done = instance.done | instance.state.taken
        successor.mailbox += [i for i in instance.mailbox if type(i) is Message and i.message_id not in done]
        successor.more, successor.has_backlog = instance.more, instance.has_backlog
        successor.phase = Phase.SETTLING
        self._live[instance.instance_id] = successor
        self._effects.send(commit)

    def settled(self, commit: Commit) -> None:
        """The store shows all that follows from ``commit``."""
        instance = self._live.get(commit.record.instance_id)
        if instance is not None and instance.phase is Phase.SETTLING and instance.rev == commit.record.rev:
            self._make_ready(instance)

    # --- the sticky cache ----------------------------------------------------------------------

    def _rest(self, instance: LiveInstance) -> None:
        instance.phase = Phase.IDLE
        if instance.more and not self._effects.draining(instance):
            instance.more = False
            self._effects.read_on(instance.instance_id)
        self._effects.wake_at(instance)
        self._enter_idle(instance)

    def _enter_idle(self, instance: LiveInstance) -> None:
        self._idle[instance.instance_id] = instance
        self._idle_bytes += instance.size
        while len(self._idle) > self._most_idle or (self._idle_bytes > self._most_bytes and len(self._idle) > 1):
            self.drop(next(iter(self._idle.values())))

    def _leave_idle(self, instance: LiveInstance) -> None:
        if self._idle.pop(instance.instance_id, None) is not None:
            self._idle_bytes -= instance.size
