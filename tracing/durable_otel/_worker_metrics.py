"""Metrics of how workers and the store do: turns, slots, leases, calls of the store, and how many instances there are.

Rule of this file: what a gauge shows is read from memory. Only :meth:`WorkerMetrics.run` asks the store, now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping

from durable.backend import Backend, BackendUnavailable, Query
from durable.core.ids import is_entity
from durable.core.state import RuntimeStatus
from durable.instrument import Slots, Turn
from durable_otel._meters import Meters
from durable_otel._spans import suppressed

COUNT_EVERY = 30.0
"""Seconds between two counts of the instances in the store."""


class WorkerMetrics:
    """The instruments. ``lag`` gives the age of the oldest turn that waits for export, in seconds."""

    def __init__(self, meters: Meters, hub: str, lag: Callable[[], float]) -> None:
        self._took = meters.seconds("durable.turn.duration", "From a turn's begin to its end", short=True)
        self._waited = meters.seconds(
            "durable.turn.queue_time", "For how long an instance with something to do waited for its turn", short=True
        )
        self._length = meters.events("durable.history.length", "Events of an execution's history after a turn")
        self._replayed = meters.events("durable.turn.replayed_events", "Events replayed to load an instance")
        self._store = meters.seconds("durable.store.operation.duration", "How long the store took", short=True)
        self._leases = meters.counter("durable.lease.lost", "lease", "Leases that another worker took over")
        self._hub = {"hub": hub}
        self._slots: Slots | None = None
        self._counts: Mapping[str, int] | None = None
        self._lag = lag
        self._runs = False
        meters.sum("durable.worker.slots", "{slot}", "What a worker can do at once, used and free", self._observe_slots)
        meters.gauge("durable.instances", "{instance}", "Instances in the store", self._observe_counts)
        meters.gauge("durable.trace.lag", "s", "Age of the oldest turn that waits for export", self._observe_lag)

    def turned(self, turn: Turn) -> None:
        """A turn is over. That of an entity goes by the entity's name, as in its id."""
        name = f"@{turn.name}" if is_entity(turn.instance_id) else turn.name
        self._took.record(turn.took, {"orchestration": name, "outcome": turn.outcome})
        self._waited.record(turn.waited)
        if turn.outcome == "committed":
            self._length.record(turn.length, {"orchestration": name})

    def replayed(self, orchestration: str, events: int) -> None:
        """An instance was brought back into memory."""
        self._replayed.record(events, {"orchestration": orchestration})

    def asked(self, backend: str, operation: str, outcome: str, seconds: float) -> None:
        """The store has answered, or has not."""
        self._store.record(seconds, {"backend": backend, "operation": operation, "outcome": outcome})

    def lost(self, partitions: Collection[int]) -> None:
        """Leases of partitions were lost."""
        self._leases.add(len(partitions), {"kind": "partition"})

    def working(self, slots: Slots | None) -> None:
        """A worker begins, or has stopped."""
        self._slots = slots

    async def run(self, backend: Backend) -> None:
        """Count the instances in the store again and again, until cancelled. Gauges show nothing after it."""
        suppressed()
        self._runs = True
        try:
            while True:
                try:
                    self._counts = await backend.count(Query(), "status")
                except BackendUnavailable:
                    self._counts = None  # nothing rather than what was true once
                await asyncio.sleep(COUNT_EVERY)
        finally:
            self._runs, self._counts = False, None

    def _observe_lag(self) -> Iterator[tuple[float, Mapping[str, str]]]:
        if self._runs:
            yield self._lag(), self._hub

    def _observe_counts(self) -> Iterator[tuple[float, Mapping[str, str]]]:
        counts = self._counts
        if counts is not None:
            for status in RuntimeStatus:
                yield counts.get(status.value, 0), {**self._hub, "status": status.value}

    def _observe_slots(self) -> Iterator[tuple[float, Mapping[str, str]]]:
        slots = self._slots
        if slots is not None:
            for kind, (used, all_of_them) in slots().items():
                yield used, {**self._hub, "kind": kind, "state": "used"}
                yield max(0, all_of_them - used), {**self._hub, "kind": kind, "state": "free"}
