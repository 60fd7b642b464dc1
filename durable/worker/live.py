"""One instance in memory: what is known of it, its code, its mailbox; and its record as a projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Protocol, TypeAlias
from uuid import uuid4

from durable.backend import CommitOutcome, InstanceRecord, Message, Start
from durable.core import events as ev
from durable.core.event_values import value_sizes
from durable.core.ids import EntityId, earlier_execution_id, generation_of, partition_of, same_start
from durable.core.state import InstanceState
from durable.offload import THRESHOLD
from durable.outbox import SENDING, SENDING_WITHOUT_PARENT, Outgoing
from durable.payloads import canonical
from durable.worker.retention import Retention

MAX_ARRIVED = 500
"""Events one turn takes in; more wait for the next turn."""

_BASE_SIZE, _EVENT_SIZE = 4096, 100  # bytes, estimated

Created: TypeAlias = Callable[[CommitOutcome | None], None]
"""Hears of the commit that creates an instance; None: it was dropped before, and is not created."""

Turn: TypeAlias = Iterator[tuple[ev.HistoryEvent, ...] | None]
"""A turn under way: pauses between events, and gives the turn's events as its last item."""

Item: TypeAlias = ev.ArrivedEvent | Message
"""What waits in a mailbox: an outcome from this process, or a message."""


class Execution(Protocol):
    """What runs an instance's turns: an orchestrator's code."""

    def turn(self, arrived: list[Any], timestamp: int) -> Turn: ...

    def discard(self) -> None: ...


class Phase(Enum):
    """Where a live instance stands. Its events gather in the mailbox unless it is IDLE."""

    IDLE = auto()
    TURNING = auto()
    COMMITTING = auto()
    SETTLING = auto()  # its next execution begins when what this one took in is marked


@dataclass(slots=True)
class Absorbed:
    """What follows from a turn: values to be stored apart, the ids of what it took in, and what it sends."""

    has_large: bool = False
    consumed: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    starts: tuple[Start, ...] = ()


_NOTHING = Absorbed()


@dataclass(slots=True, eq=False)
class LiveInstance:
    """An instance in memory. ``recoveries`` counts its deliveries without a clean hand-over.

    ``next_seq`` and ``rev`` number its next and its last checkpoint. ``created`` is False until its
    record is written, together with its first checkpoint. ``execution`` is None when its code cannot or
    need not be run: it can only be ended.
    """

    record: InstanceRecord
    execution: Execution | None
    partition_count: int
    state: InstanceState = field(default_factory=InstanceState)
    phase: Phase = Phase.IDLE
    mailbox: list[Item] = field(default_factory=list)
    next_seq: int = 0
    rev: int = 0
    recoveries: int = 0
    size: int = _BASE_SIZE
    created: bool = True
    on_created: Created | None = None
    turn: Turn | None = None
    taken: list[Item] = field(default_factory=list)  # by the turn that is not committed yet
    took_outcome: bool = False  # of an activity that ran here, and nothing else: as most turns
    refused: list[Message] = field(default_factory=list)
    unmarked: set[str] = field(default_factory=set)  # ids of refused ones that history holds: a former owner's
    unasked: frozenset[str] = frozenset()  # ids of answers to what history does not ask (any more)
    told: set[str] | None = None  # to whom it has sent since it was loaded; None: it began here
    more: bool = False  # messages wait in the store, to be read when it comes to rest
    has_backlog: bool = False  # that there are so many was reported
    is_stale: bool = False  # a message showed that another owner has written on
    heartbeats: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # ids of the messages taken in while it is in memory
    failures: int = 0
    queued: dict[int, str] | None = None  # the queues of the activities that were offered while it is in memory
    run: int = 0  # how often this execution was rewound
    former_task: int = 0  # the last task id of the runs before
    ready_at: float = 0.0  # when its turn could begin, and when it did; kept only for an instrument
    began_at: float = 0.0
    shown_status: tuple[str, str] = ("", "")  # the custom status that was projected last, as it is and as shown
    instance_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.instance_id = self.record.instance_id

    @property
    def under_way(self) -> bool:
        """Whether a turn is waiting, running or being committed."""
        return self.phase is not Phase.IDLE

    @property
    def can_wait(self) -> bool:
        """Whether all that is in the mailbox is in the store as well, for another owner to find."""
        return self.created and all(type(item) in (Message, ev.ExecutionStarted) for item in self.mailbox)

    @property
    def consuming(self) -> tuple[str, ...]:
        """Ids of the messages that the turn under way has taken in."""
        return tuple([item.message_id for item in self.taken if type(item) is Message])

    def take_arrived(self, now: int) -> list[ev.ArrivedEvent]:
        """The events for the next turn: the news in the mailbox, then the timers that are due.

        A termination comes before everything else, with the start if that is still here. Messages that come too late
        are ``refused``.
        """
        if len(self.mailbox) == 1 and not self.state.timers and self.execution is not None:
            outcome = self.mailbox[0]
            if type(outcome) in _OUTCOMES and outcome.task_id in self.state.activities:  # type: ignore[union-attr]
                self.taken, self.mailbox, self.took_outcome = self.mailbox, [], True
                return [outcome]  # type: ignore[list-item]
        arrived: list[Any] = []
        seen: set[object] = set()
        self.taken, self.took_outcome = [], False
        items, self.mailbox = self._next_items()
        for item in items:
            event: Any = item
            if type(item) is Message:
                event = item.event
                if item.message_id in seen or item.message_id in self.done:
                    continue  # here before: not refused, as the commit that takes it in marks it
                seen.add(item.message_id)
                if self.is_ahead(item):
                    self.is_stale = True
                    continue
                if self._is_held(item):
                    continue  # here before: refused, it would give back the locks; it is when the section is left
                if not is_addressed(item, self.record.execution_id) or not self.state.accepts(event):
                    self.refuse(item)
                    continue
            elif not self.state.accepts(event):
                continue
            task_id = 0 if type(event) in _WITHOUT_TASK else event.task_id
            if task_id in seen:
                continue
            if task_id:
                seen.add(task_id)
            self.taken.append(item)
            arrived.append(event)
        if self.state.timers and not self._terminates(arrived):
            arrived += [fired for fired in self.state.due_timers(now) if fired.task_id not in seen]
        return arrived

    def is_ahead(self, message: Message) -> bool:
        """Whether a message answers what this copy has not asked: then history goes on where the copy ends.

        Refused, such an answer would be lost. ``unasked`` are those for which that was looked up.
        """
        if message.execution_id is None or message.message_id in self.unasked:
            return False
        mine = self.record.execution_id
        if message.execution_id == mine:
            return getattr(message.event, "task_id", 0) > self.state.last_asked
        return same_start(message.execution_id, mine) and generation_of(message.execution_id) > generation_of(mine)

    def refuse(self, message: Message) -> None:
        """Take a message for one that is not to be taken in."""
        self.refused.append(message)
        if message.message_id in self.state.taken:
            self.unmarked.add(message.message_id)

    def left_unmarked(self) -> tuple[str, ...]:
        """Ids of the messages that a former owner took in and may not have marked.

        The next execution does not know them: unless they are marked before it begins, it would take them in again.
        """
        if self.more or self.has_backlog:
            return tuple(sorted(self.state.taken - self.done))  # what is still to be read may hold any of them
        waiting = {item.message_id for item in self.mailbox if type(item) is Message}
        return tuple(sorted((self.unmarked | waiting) & self.state.taken - self.done))

    def _is_held(self, message: Message) -> bool:
        """Whether a message says again that a critical section has its locks, and it still has."""
        granted = type(message.event) is ev.EntityLockGranted and message.event.task_id in self.state.sections
        return granted and message.execution_id == self.record.execution_id

    def put_back(self, events: tuple[ev.HistoryEvent, ...]) -> None:
        """Return to the mailbox what the turn of these events did not take in: the execution had ended before."""
        count = len(self.taken)
        if count < len(events) and type(events[count]) in (ev.OrchestratorStarted, ev.TimerFired):
            return  # the usual case: all of it
        count = next(place for place, event in enumerate(events) if type(event) is ev.OrchestratorStarted)
        if count < len(self.taken):
            self.taken, rest = self.taken[:count], self.taken[count:]
            self.mailbox = rest + self.mailbox

    def _next_items(self) -> tuple[list[Item], list[Item]]:
        if len(self.mailbox) == 1 and self.execution is not None:
            return self.mailbox, []
        for position, item in enumerate(self.mailbox):
            if type(item) is not Message or type(item.event) is not ev.ExecutionTerminated:
                continue
            if is_addressed(item, self.record.execution_id):
                others = self.mailbox[:position] + self.mailbox[position + 1 :]
                start = [other for other in others if type(other) is ev.ExecutionStarted]
                return [*start, item], [other for other in others if type(other) is not ev.ExecutionStarted]
        if self.execution is None:
            return [], self.mailbox
        return self.mailbox[:MAX_ARRIVED], self.mailbox[MAX_ARRIVED:]

    @staticmethod
    def _terminates(arrived: list[Any]) -> bool:
        return bool(arrived) and type(arrived[-1]) is ev.ExecutionTerminated

    def turn_time(self, arrived: Iterable[ev.HistoryEvent], now: int) -> int:
        """The time of a turn: never before the last one, nor before its start or a timer that it takes in."""
        time = max(now, self.state.last_timestamp)
        if self.took_outcome:
            return time
        for event in arrived:
            if type(event) is ev.TimerFired and event.fire_at > time:
                time = event.fire_at
            elif type(event) is ev.ExecutionStarted and event.timestamp > time:
                time = event.timestamp
        return time

    def recall(self, events: Sequence[ev.HistoryEvent]) -> None:
        """Take the events of former checkpoints into account, from which nothing follows any more."""
        self.size += value_sizes(events)[0] + _EVENT_SIZE * len(events)
        self.state.apply_all(events)

    def absorb(self, events: Sequence[ev.HistoryEvent]) -> Absorbed:
        """Take the events of the checkpoint ``next_seq`` into account, and say what follows from them."""
        consumed = () if self.took_outcome else self.consuming
        if consumed:
            self.done.update(consumed)
        total, largest = value_sizes(events)
        self.size += total + _EVENT_SIZE * len(events)
        has_large = largest > THRESHOLD
        sending = SENDING if self.record.parent is not None else SENDING_WITHOUT_PARENT
        if sending.isdisjoint(map(type, events)):  # as most turns
            self.state.apply_all(events)
            return Absorbed(has_large, consumed) if has_large or consumed else _NOTHING
        out = Outgoing(self.record, self.record.execution_id, self.next_seq, self.partition_count)
        for position, event in enumerate(events, 1):
            kind = type(event)
            if kind in SENDING:
                if kind is ev.ExecutionForked:  # what that one copied was sent by its origin
                    out = Outgoing(self.record, self.record.execution_id, self.next_seq, self.partition_count)
                out.take(event, position, self.state)
            self.state.apply(event)
        return Absorbed(has_large, consumed, tuple(out.messages), tuple(out.starts))


def is_addressed(message: Message, execution_id: str) -> bool:
    """Whether a message is for that execution; what a parent tells its child is for whichever of the child's runs."""
    if message.execution_id in (None, execution_id):
        return True
    return type(message.event) in _FROM_PARENT and same_start(message.execution_id or "", execution_id)


_FROM_PARENT = (ev.ExecutionTerminated, ev.ExecutionCancelRequested, ev.ExecutionRewound)
_OUTCOMES = frozenset({ev.TaskCompleted, ev.TaskFailed})
_WITHOUT_TASK = frozenset(
    {
        ev.ExecutionStarted,
        ev.EventRaised,
        ev.ExecutionTerminated,
        ev.ExecutionCancelRequested,
        ev.ExecutionSuspended,
        ev.ExecutionResumed,
        ev.ExecutionRewound,
        ev.EntityOperationCalled,  # these have the caller's task id
        ev.EntityOperationSignaled,
        ev.EntityLockRequested,
        ev.EntityUnlockSent,
    }
)


def start_event(record: InstanceRecord, now: int, runtime: str) -> ev.ExecutionStarted:
    """The event that starts an execution: the instance's record is the start message.

    It is later than the execution before, as messages are told apart by their times, whatever the worker's clock says.
    """
    follows = generation_of(record.execution_id) > 0
    return ev.ExecutionStarted(
        timestamp=max(now, record.created_at, record.updated_at + follows),
        instance_id=record.instance_id,
        execution_id=record.execution_id,
        name=record.name,
        input=record.input,
        version=record.version,
        tags=record.tags,
        runtime=runtime,
        parent=record.parent,
    )


def entity_record(instance_id: str, partition_count: int, now: int) -> InstanceRecord:
    """The record of an entity that comes to be."""
    return InstanceRecord(
        instance_id,
        uuid4().hex,
        EntityId.parse(instance_id).name,
        partition_of(instance_id, partition_count),
        now,
        now,
        "null",
        due_at=now,
    )


def project(instance: LiveInstance, retention: Retention) -> InstanceRecord:
    """The record of an instance as its state is now."""
    record, state = instance.record, instance.state
    ended = state.status.is_terminal
    projected = InstanceRecord(  # by position: twenty names would take longer to match than the rest of it
        record.instance_id,
        record.execution_id,
        record.name,
        record.partition,
        record.created_at,
        state.last_timestamp,
        record.input,
        state.status,
        instance.rev,
        record.version,
        record.tags,
        state.due_at,
        state.last_timestamp if ended else None,
        state.output,
        None if state.custom_status is None else _shown_status(instance, state.custom_status),
        state.failure,
        None,
        instance.recoveries,
        record.parent,
        _outstanding_heartbeats(instance) if instance.heartbeats else None,
        retention.purge_at(record.name, state.status, state.last_timestamp) if ended else None,
    )
    continued = state.continued
    if continued is None:
        return projected
    return replace(projected, execution_id=continued.execution_id, input=continued.input)


def _shown_status(instance: LiveInstance, status: str) -> str:
    """The custom status in the form by which it can be found: the keys of its objects in order."""
    if instance.shown_status[0] is not status:
        instance.shown_status = (status, canonical(status))
    return instance.shown_status[1]


def outdated(execution_id: str, keep: int) -> tuple[str, ...]:
    """The execution whose history goes when ``execution_id`` begins; ``keep`` is how many former ones stay."""
    old = earlier_execution_id(execution_id, keep + 1)
    return () if old is None else (old,)


def _outstanding_heartbeats(instance: LiveInstance) -> dict[str, str] | None:
    outstanding = instance.state.activities
    instance.heartbeats = {task: last for task, last in instance.heartbeats.items() if int(task) in outstanding}
    return dict(instance.heartbeats) or None
