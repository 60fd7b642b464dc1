"""Calls of activities: run here, or offered to a queue; and the queues that this worker serves.

Rule of this file: an activity without a queue costs nothing that is about queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Set
from functools import partial
from typing import Any

from durable.backend import Backend, Message
from durable.clock import Clock
from durable.core.errors import UnknownFunctionError
from durable.core.events import TaskScheduled
from durable.instrument import Instrument
from durable.registry import Registry
from durable.settings import Settings
from durable.tasks import with_queues
from durable.worker.activities import ActivityRunner, Attempt
from durable.worker.claims import ServedQueue
from durable.worker.live import LiveInstance
from durable.worker.offers import Offers
from durable.worker.patience import Patience


class Calls:
    """Starts and cancels the activities that turns ask for. ``park`` takes an instance that calls what is not known."""

    def __init__(
        self,
        activities: ActivityRunner,
        registry: Registry,
        park: Callable[[LiveInstance, Exception], None],
        instrument: Instrument | None = None,
    ) -> None:
        self._instrument = instrument
        self._activities = activities
        self._registry = registry
        self._park = park
        self._offers: Offers | None = None
        self._served: dict[str, ServedQueue] = {}
        self._drain_time = 0.0

    def open_queues(
        self,
        backend: Backend,
        partition_count: int,
        worker_id: str,
        settings: Settings,
        patience: Patience,
        clock: Clock,
        post: Callable[[Message], None],
    ) -> None:
        """Get ready for the queues of the registry, of which ``settings`` may choose some to be served.

        Raises UnknownFunctionError for one that is not registered, QueuesNotSupportedError.
        """
        served = [
            self._registry.find_queue(name)
            for name in (self._registry.queues if settings.queues is None else settings.queues)
        ]
        if not self._registry.queues:
            return
        store = with_queues(backend, f"queue {next(iter(self._registry.queues))!r}")
        self._drain_time = settings.drain_time
        self._offers = Offers(backend, store, self._registry, patience, clock, self.wake, self._activities.cancel)
        for queue in served:
            self._served[queue.name] = ServedQueue(
                queue,
                backend,
                store,
                partition_count,
                worker_id,
                settings.lease_time,
                self._registry,
                self._activities,
                patience,
                clock,
                post,
                self._instrument,
            )

    def loops(self) -> Iterator[tuple[Coroutine[Any, Any, None], str]]:
        """What is to run beside the instances, with names."""
        if self._offers is not None:
            yield self._offers.run(), "offers"
        for name, served in self._served.items():
            yield served.run(), f"claims-{name}"
            yield served.tell(), f"outcomes-{name}"
            yield served.renew(), f"renewals-{name}"

    def slots(self) -> dict[str, tuple[int, int]]:
        """Of activities, and of the served queues that are bounded here: how many run, and how many may at once."""
        queues = {f"queue:{name}": served.slots for name, served in self._served.items()}
        return {"activity": self._activities.slots, **{name: one for name, one in queues.items() if one is not None}}

    def wake(self, queue: str | None) -> None:
        """Look for something to claim in that queue, or (None) in all."""
        for name, served in self._served.items():
            if queue in (None, name):
                served.wake()

    async def stop(self) -> None:
        """Stop serving, gracefully. Raises TimeoutError when the store does not answer."""
        if self._served:
            self._activities.withdraw(lambda attempt: attempt.on_end is not None)
            await asyncio.gather(*(served.stop(self._drain_time) for served in self._served.values()))

    async def flush(self) -> None:
        """Have written what is to be offered and taken back. Raises TimeoutError when the store does not answer."""
        if self._offers is not None:
            async with asyncio.timeout(self._drain_time):
                await self._offers.flush()

    # --- what turns ask for

    def start(self, instance: LiveInstance, scheduled: TaskScheduled, number: int) -> None:
        """Run an activity, or have it wait in its queue; ``number`` counts its deliveries here."""
        if scheduled.queue is not None:
            self._offer(instance, scheduled, again=number > 1)
            return
        definition = self._registry.activities.get(scheduled.name)
        if definition is None:
            self._park_later(instance, lambda: self._registry.find_activity(scheduled.name))
            return
        record = instance.record
        heartbeat = instance.heartbeats.get(str(scheduled.task_id)) if instance.heartbeats else None
        if heartbeat is None and scheduled.previous is not None:
            heartbeat = scheduled.previous.heartbeat
        attempt = Attempt(record.instance_id, record.execution_id, scheduled, definition, number, heartbeat)
        if self._instrument is not None:
            run = instance.run if scheduled.task_id <= instance.former_task else 0
            attempt.begin = partial(self._instrument.attempt, record, scheduled, number, run)
        self._activities.start(attempt)

    def _offer(self, instance: LiveInstance, scheduled: TaskScheduled, *, again: bool) -> None:
        queue = "" if scheduled.queue is None else scheduled.queue.name
        if self._offers is None or queue not in self._registry.queues:
            self._park_later(instance, lambda: self._registry.find_queue(queue))
        else:
            self._offers.offer(instance, scheduled, again=again)

    def _park_later(self, instance: LiveInstance, find: Callable[[], object]) -> None:
        """Park the instance with the error of ``find``; later, as the caller is in the middle of its turn."""

        def park() -> None:
            try:
                find()
            except UnknownFunctionError as error:
                self._park(instance, error)

        asyncio.get_running_loop().call_soon(park)

    def cancel(self, instance: LiveInstance, task_id: int) -> None:
        """Ask an activity to stop, wherever it runs or waits."""
        queue = None if instance.queued is None else instance.queued.pop(task_id, None)
        if queue is not None and self._offers is not None:
            self._offers.withdraw(instance, task_id, queue)
        else:
            self._activities.cancel((instance.record.instance_id, instance.record.execution_id, task_id))

    def keep(self, instance_id: str, task_ids: Set[int]) -> None:
        """Cancel those activities of the instance that run here and are not among ``task_ids``."""
        for attempt in self._activities:
            if attempt.instance_id == instance_id and attempt.scheduled.task_id not in task_ids:
                self._activities.cancel(attempt.key)
