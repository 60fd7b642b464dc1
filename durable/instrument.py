"""Instruments: what the engine tells those who watch it, and how they lend it a trace context.

Rule of this file: the engine knows these methods and nothing of who has them. They are called in the event loop, right
where things happen, so they neither block nor raise. What is told as committed is committed. Without an instrument
nothing is measured: each place asks whether there is one, and does no more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Protocol, TypeAlias

from durable.backend import Backend, Commit, InstanceRecord
from durable.clock import Clock
from durable.core.events import (
    EntityOperationCalled,
    EntityOperationSignaled,
    EventRaised,
    ExecutionStarted,
    TaskScheduled,
)

TurnOutcome: TypeAlias = Literal["committed", "conflict", "nondeterminism", "error"]
"""What became of a turn: another worker was first (``conflict``), the code contradicts its history or did what it must
not do (``nondeterminism``), or it could not be run for another reason (``error``)."""

Slots: TypeAlias = Callable[[], Mapping[str, tuple[int, int]]]
"""Gives, for each kind of slots of a worker, how many are used and how many there are. From any thread."""


class Turn(NamedTuple):
    """A turn that is over. ``waited`` and ``took`` are seconds: until it began, and from there to its end.

    A turn that is committed ends when the store has confirmed it. ``length`` is the number of events in the history
    of its execution then.
    """

    instance_id: str
    name: str
    outcome: TurnOutcome
    waited: float
    took: float
    length: int


class LiveSpan(Protocol):
    """An attempt of an activity, or an operation of an entity, that runs in a trace context."""

    def recorded(self) -> str | None:
        """What the code put on its span, as JSON text; None: nothing. Called once, at the end."""
        ...


class Instrument:
    """Does nothing; override what you need."""

    def store(self, hub: str, backend: Backend) -> Backend:
        """The task hub is about to open this store. It uses what is given back: the store, or something around it."""
        return backend

    async def opened(self, hub: str, backend: Backend, clock: Clock) -> None:
        """The task hub is connected."""

    async def closing(self) -> None:
        """The task hub is about to disconnect; its store can still be read."""

    def gained(self, partitions: Collection[int]) -> None:
        """The worker of this process works on these partitions now; another one may have died with them."""

    def lost(self, partitions: Collection[int]) -> None:
        """Another worker holds these partitions now, though the worker of this process had not given them up."""

    def working(self, slots: Slots | None) -> None:
        """The worker of this process begins, with these slots; None: it has stopped."""

    @property
    def measures_turns(self) -> bool:
        """Whether :meth:`loaded` and :meth:`turned` are to be called. Asked once, when a worker begins."""
        return True

    def loaded(self, started: ExecutionStarted, replayed: int, outstanding: Collection[TaskScheduled]) -> None:
        """The worker brought an execution back into memory by replaying that many events of its history.

        ``outstanding`` are the activities that it waits for.
        """

    def turned(self, turn: Turn) -> None:
        """The worker is done with a turn."""

    def committed(self, commits: Sequence[Commit]) -> None:
        """These turns are durable. Told once each, by the worker that ran them, unless it dies before."""

    def starting(self, record: InstanceRecord) -> AbstractContextManager[InstanceRecord]:
        """A client starts an instance within the block; the record that is given back is the one created."""
        return nullcontext(record)

    def sending(
        self, instance_id: str, event: EventRaised | EntityOperationSignaled, receiver: InstanceRecord | None
    ) -> AbstractContextManager[EventRaised | EntityOperationSignaled]:
        """A client raises an external event, or signals an entity, within the block; what is given back is sent.

        ``receiver`` is the instance as it was last seen; None for an entity.
        """
        return nullcontext(event)

    def attempt(self, record: InstanceRecord, scheduled: TaskScheduled, number: int, run: int = 0) -> LiveSpan | None:
        """An attempt of an activity begins in the current ``contextvars`` context; ``number`` counts deliveries.

        ``run`` is 0, or how often the execution was rewound where a run before had a task of that id.
        """
        return None

    def operation(
        self, record: InstanceRecord, event: EntityOperationCalled | EntityOperationSignaled
    ) -> LiveSpan | None:
        """An operation of an entity begins in the current ``contextvars`` context."""
        return None

    def orchestrator(self, started: ExecutionStarted, is_replaying: Callable[[], bool], run: Callable[[], int]) -> None:
        """An orchestrator's code begins in the current ``contextvars`` context.

        ``run`` gives how often the execution was rewound. It is to be asked while code runs, not at once.
        """
