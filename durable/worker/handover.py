"""Handing over: bringing partitions to rest, so that their next owner repeats as little as possible.

Rule of this file: what is ``draining`` takes in the outcomes of what runs, and begins nothing new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from durable.backend import Annotation, Backend
from durable.core.ids import partition_of
from durable.worker.activities import ActivityRunner, Attempt
from durable.worker.committer import Committer
from durable.worker.instances import Instances
from durable.worker.live import LiveInstance

_log = logging.getLogger("durable.worker")

_DRAIN_POLL = 0.01


class HandOver:
    """Ends the work of partitions within ``limit`` seconds. ``loading`` says whether an instance is being loaded."""

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        activities: ActivityRunner,
        instances: Instances,
        committer: Committer,
        loading: Callable[[], bool],
        limit: float,
    ) -> None:
        self._backend = backend
        self._count = partition_count
        self._activities = activities
        self._instances = instances
        self._committer = committer
        self._loading = loading
        self._limit = limit
        self.draining: frozenset[int] = frozenset()

    async def hand_over(self, partitions: frozenset[int]) -> None:
        """Bring these partitions to rest before they are released; whatever the store says, they are."""
        try:
            await self.bring_to_rest(partitions)
        except TimeoutError:
            _log.warning("partitions %s are given up before the store confirmed all of their work", sorted(partitions))
        finally:
            self.draining -= partitions

    async def bring_to_rest(self, partitions: frozenset[int]) -> None:
        """End the work of these partitions, so that their next owner repeats as little as possible.

        Raises TimeoutError or BackendUnavailable when the store does not take the rest.
        """
        limit = self._limit
        try:
            async with asyncio.timeout(limit):
                await self._quiesce(partitions)
        except TimeoutError:
            _log.warning("activities still ran after %g s and are cancelled; their next owner runs them again", limit)
            self.cancel_activities(partitions)
        async with asyncio.timeout(limit):
            await self._committer.drain()
            await self._note_clean_stop([i for i in self._instances if i.record.partition in partitions])

    def cancel_activities(self, partitions: frozenset[int]) -> None:
        """Ask the activities of these partitions to stop; their next owner runs them again."""
        for attempt in self._activities:
            if self._belongs(attempt, partitions):
                self._activities.cancel(attempt.key)

    async def _quiesce(self, partitions: frozenset[int]) -> None:
        """Start nothing new for these partitions and wait until their turns and running activities have ended."""
        self.draining |= partitions
        self._activities.withdraw(lambda attempt: self._belongs(attempt, partitions))
        while self._loading() or self._busy(partitions):  # noqa: ASYNC110 - many parts, no single event
            await asyncio.sleep(_DRAIN_POLL)

    def _busy(self, partitions: Collection[int]) -> bool:
        running = any(self._belongs(attempt, partitions) for attempt in self._activities)
        return running or any(i.under_way for i in self._instances if i.record.partition in partitions)

    def _belongs(self, attempt: Attempt, partitions: Collection[int]) -> bool:
        """Whether an attempt is of these partitions; one from a queue is of none."""
        return attempt.on_end is None and partition_of(attempt.instance_id, self._count) in partitions

    async def _note_clean_stop(self, instances: list[LiveInstance]) -> None:
        """Take back the next owner's count of one more delivery: this worker did not die of these activities."""
        notes = [
            Annotation(i.instance_id, i.rev, i.record.problem, i.recoveries - 1, i.heartbeats or None)
            for i in instances
            if i.created and any(task.queue is None for task in i.state.activities.values())
        ]
        if notes:
            await self._backend.annotate(notes)
