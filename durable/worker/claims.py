"""Claims: activities taken from the queues that this worker serves, run here, and their outcomes sent.

Rule of this file: the outcome is a message in the store before the task leaves its queue. So whoever owns the instance
hears of it, a crash in between costs another delivery, and of two outcomes the instance takes in the first. A claim
that could not be renewed in time is another worker's, and what ran under it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import uniform

from durable.backend import Backend, InstanceRecord, Message
from durable.clock import Clock
from durable.core.events import TaskScheduled
from durable.core.ids import partition_of
from durable.instrument import Instrument
from durable.offload import MissingPayloadError, restore_task
from durable.queues import ActivityQueue
from durable.registry import Registry
from durable.tasks import Claims, QueueBackend, QueuedTask
from durable.worker.activities import ActivityRunner, Attempt, Key, Outcome
from durable.worker.patience import Patience

_log = logging.getLogger("durable.worker")

_LOOK = 3.0
"""Seconds, about, after which a queue is looked at although nothing told of it."""


class ServedQueue:
    """One queue that this worker serves. ``post`` takes a message that is in the store to its receiver, if it is here.

    ``held`` are the tasks claimed here, until the store has been told that they ended; ``running`` those under way.
    """

    def __init__(
        self,
        queue: ActivityQueue,
        backend: Backend,
        store: QueueBackend,
        partition_count: int,
        worker_id: str,
        lease_time: float,
        registry: Registry,
        activities: ActivityRunner,
        patience: Patience,
        clock: Clock,
        post: Callable[[Message], None],
        instrument: Instrument | None = None,
    ) -> None:
        self._instrument = instrument
        self.queue = queue
        self._limits = queue.limits
        self._backend = backend
        self._store = store
        self._count = partition_count
        self._worker_id = worker_id
        self._lease = lease_time
        self._ttl = round(lease_time * 1_000_000)
        self._registry = registry
        self._activities = activities
        self._patience = patience
        self._clock = clock
        self._post = post
        self._ended: dict[str, Outcome | None] = {}
        self._given_back: list[str] = []
        self._awake = asyncio.Event()
        self._to_tell = asyncio.Event()
        self._is_stopping = False
        self._is_filling = False
        self.held: dict[str, QueuedTask] = {}
        self.running: dict[str, Key] = {}

    def wake(self) -> None:
        """There may be something to claim."""
        self._awake.set()

    @property
    def slots(self) -> tuple[int, int] | None:
        """How many of its tasks run here, and how many may at once; None where the queue sets no bound."""
        most = self.queue.worker_concurrency
        return None if most is None else (len(self.running), most)

    # --- claiming

    async def run(self) -> None:
        """Claim and start until cancelled."""
        while True:
            self._awake.clear()
            self._is_filling = True
            next_at = await self._fill()
            self._is_filling = False
            pause = uniform(0.75, 1.25) * _LOOK
            if next_at is not None:
                pause = min(pause, max(0, next_at - self._clock()) / 1_000_000)
            try:
                async with asyncio.timeout(pause):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _fill(self) -> int | None:
        """Claim as many as there is room for; when to look again, None: at a hint, or in a while."""
        limit = self._room()
        if limit <= 0:
            return None
        claims = await self._patience.insist(partial(self._claim, limit))
        # One that is held already was claimed anew because its claim had expired unnoticed: it runs here, or has ended.
        tasks = [task for task in claims.tasks if task.task_id not in self.held]
        for task in tasks:
            self.held[task.task_id] = task
        if tasks:
            await self._start(tasks)
        return None if self._room() <= 0 else claims.next_at

    async def _claim(self, limit: int) -> Claims:
        return await self._store.claim_tasks(
            self.queue.name,
            self._limits,
            self._worker_id,
            self._clock(),
            self._ttl,
            names=list(self._registry.activities),
            limit=limit,
            holding=list(self.held),
        )

    def _room(self) -> int:
        if self._is_stopping:
            return 0
        room = self._activities.room
        most = self.queue.worker_concurrency
        return room if most is None else min(room, most - len(self.running))

    async def _start(self, tasks: Sequence[QueuedTask]) -> None:
        """Run these, with what former attempts reported; one whose instance was purged ends without an outcome."""
        ids = list(dict.fromkeys(task.instance_id for task in tasks))
        found = await self._patience.insist(lambda: self._backend.get(ids))
        records = dict(zip(ids, found, strict=True))
        for task in tasks:
            record = records[task.instance_id]
            try:
                restore = partial(restore_task, self._backend, task.instance_id, task.scheduled)
                scheduled = None if record is None else await self._patience.insist(restore)
            except MissingPayloadError as error:
                _log.warning("task %s is dropped: %s", task.task_id, error)
                scheduled = None
            if self._is_stopping:
                self._give_back([task.task_id])
            elif record is None or scheduled is None:
                self._end(task.task_id, None)
            else:
                self._run_one(task, scheduled, record)

    def _run_one(self, task: QueuedTask, scheduled: TaskScheduled, record: InstanceRecord) -> None:
        reported = record.heartbeats if record.execution_id == task.execution_id else None
        last = (reported or {}).get(str(scheduled.task_id))
        if last is None and scheduled.previous is not None:
            last = scheduled.previous.heartbeat
        attempt = Attempt(
            task.instance_id,
            task.execution_id,
            scheduled,
            self._registry.activities[task.name],
            task.number,
            last,
            partial(self._attempt_ended, task),
        )
        if self._instrument is not None:
            # The instance may have gone on in another execution meanwhile.
            asker = replace(record, execution_id=task.execution_id)
            attempt.begin = partial(self._instrument.attempt, asker, scheduled, task.number)
        self.running[task.task_id] = attempt.key
        self._activities.start(attempt)

    # --- ending

    def _attempt_ended(self, task: QueuedTask, attempt: Attempt, outcome: Outcome | None) -> None:
        if self.running.pop(task.task_id, None) is None:
            return  # the claim was lost before
        if attempt.cancelled and self._is_stopping:
            self._give_back([task.task_id])
        else:
            self._end(task.task_id, outcome)
        self._awake.set()

    def _end(self, task_id: str, outcome: Outcome | None) -> None:
        self._ended[task_id] = outcome
        self._to_tell.set()

    def _give_back(self, task_ids: Sequence[str]) -> None:
        self._given_back += task_ids
        self._to_tell.set()

    async def tell(self) -> None:
        """Send outcomes and let go of claims until cancelled."""
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            ended, self._ended = self._ended, {}
            back, self._given_back = self._given_back, []
            messages = [
                self._message(self.held[task_id], outcome) for task_id, outcome in ended.items() if outcome is not None
            ]
            if messages:
                await self._patience.insist(partial(self._backend.send, messages))
                for message in messages:
                    self._post(message)
            name, worker_id = self.queue.name, self._worker_id
            if ended:
                await self._patience.insist(partial(self._store.finish_tasks, name, worker_id, list(ended)))
            if back:
                await self._patience.insist(partial(self._store.release_tasks, name, worker_id, back))
            for task_id in (*ended, *back):
                self.held.pop(task_id, None)
            self._awake.set()

    def _message(self, task: QueuedTask, outcome: Outcome) -> Message:
        """The outcome as a message of this offer: an activity that is offered anew after a rewind has another one."""
        return Message(
            f"{task.task_id}/queued/{task.offered_at}",
            task.instance_id,
            partition_of(task.instance_id, self._count),
            outcome.timestamp,
            outcome,
            task.execution_id,
        )

    # --- keeping

    async def renew(self) -> None:
        """Keep the claims, until cancelled; also of what has ended, as long as the store does not know."""
        while True:
            await asyncio.sleep(self._lease / 4)
            ids = list(self.held)
            if not ids:
                continue
            kept = await self._patience.insist(partial(self._renew, ids))
            for task_id in ids:
                if task_id not in kept and (key := self.running.pop(task_id, None)) is not None:
                    _log.info("task %s is not this worker's any more and is cancelled", task_id)
                    self.held.pop(task_id, None)
                    self._activities.cancel(key)
                    self._awake.set()

    async def _renew(self, task_ids: Sequence[str]) -> set[str]:
        return await self._store.renew_tasks(self.queue.name, self._worker_id, task_ids, self._clock(), self._ttl)

    async def stop(self, seconds: float) -> None:
        """Claim nothing more, give back what has not started, and let the rest end, for ``seconds`` at most.

        Raises TimeoutError when the store does not take what there is to tell, for as long again.
        """
        self._is_stopping = True
        for task_id, key in list(self.running.items()):
            if key not in self._activities:
                del self.running[task_id]
                self._give_back([task_id])
        try:
            async with asyncio.timeout(seconds):
                await self._until(lambda: not self.running and not self._is_filling)
        except TimeoutError:
            _log.warning("activities of queue %r still ran after %g s and are cancelled", self.queue.name, seconds)
            for key in list(self.running.values()):
                self._activities.cancel(key)
        async with asyncio.timeout(seconds):
            await self._until(lambda: not self.held)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - several parts change it, and only a stop waits for it
            await asyncio.sleep(0.01)
