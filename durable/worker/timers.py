"""Wake-ups: which instance has something to do when, for those that this process knows of.

Rule of this file: a wake-up may be early, late or stale, never relied on: whoever is woken looks at
its own history. The store knows every wake-up; only those of the near future are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from durable.clock import Clock

HORIZON = 60_000_000
"""Microseconds ahead for which wake-ups are kept in memory; later ones are read from the store in time."""


class WakeUps:
    """A heap of (time, instance id) with one host timer for the earliest."""

    def __init__(self, clock: Clock, wake: Callable[[str], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self, instance_id: str, due_at: int | None, *, however_late: bool = False) -> None:
        """Wake ``instance_id`` at ``due_at`` instead of when it was to be woken; None: not at all.

        ``however_late`` keeps it beyond the horizon too: the store does not list the timers of a busy instance.
        """
        if due_at is None or (due_at > self._clock() + HORIZON and not however_late):
            self._due.pop(instance_id, None)
            return
        if self._due.get(instance_id) == due_at:
            return
        self._due[instance_id] = due_at
        if len(self._heap) > 64 + 4 * len(self._due):
            self._heap = [(due, name) for name, due in self._due.items()]
            heapify(self._heap)
        else:
            heappush(self._heap, (due_at, instance_id))
        if self._heap[0][0] >= due_at:
            self._arm()

    def close(self) -> None:
        """Wake nobody any more."""
        self._due.clear()
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            # Never sleep longer than the horizon: the machine's clock may be set meanwhile.
            delay = min(max(self._heap[0][0] - self._clock(), 0), HORIZON) / 1_000_000
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due_at, instance_id = heappop(self._heap)
            if self._due.get(instance_id) == due_at:
                del self._due[instance_id]
                self._wake(instance_id)
        self._arm()
