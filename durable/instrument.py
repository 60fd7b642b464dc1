"""Instruments: what the engine tells those who watch it, and how they lend it a trace context.

Rule of this file: the engine knows these methods and nothing of who has them. They are called in the event loop, right
where things happen, so they neither block nor raise. What is told as committed is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from durable.backend import Backend, Commit, InstanceRecord
from durable.clock import Clock
from durable.core.events import EntityOperationSignaled, EventRaised, ExecutionStarted, TaskScheduled


class LiveAttempt(Protocol):
    """An attempt of an activity that runs in a trace context."""

    def recorded(self) -> str | None:
        """What the activity's code put on the attempt's span, as JSON text; None: nothing. Called once, at the end."""
        ...


class Instrument:
    """Does nothing; override what you need."""

    async def opened(self, hub: str, backend: Backend, clock: Clock) -> None:
        """The task hub is connected."""

    async def closing(self) -> None:
        """The task hub is about to disconnect; its store can still be read."""

    def gained(self, partitions: Collection[int]) -> None:
        """The worker of this process works on these partitions now; another one may have died with them."""

    def committed(self, commits: Sequence[Commit]) -> None:
        """These turns are durable. Told once each, by the worker that ran them, unless it dies before."""

    def starting(self, record: InstanceRecord) -> AbstractContextManager[InstanceRecord]:
        """A client starts an instance within the block; the record that is given back is the one created."""
        return nullcontext(record)

    def sending(
        self, instance_id: str, event: EventRaised | EntityOperationSignaled
    ) -> AbstractContextManager[EventRaised | EntityOperationSignaled]:
        """A client raises an external event, or signals an entity, within the block; what is given back is sent."""
        return nullcontext(event)

    def attempt(self, record: InstanceRecord, scheduled: TaskScheduled, number: int) -> LiveAttempt | None:
        """An attempt of an activity begins in the current ``contextvars`` context; ``number`` counts deliveries."""
        return None

    def orchestrator(self, started: ExecutionStarted, is_replaying: Callable[[], bool]) -> None:
        """An orchestrator's code begins in the current ``contextvars`` context."""
