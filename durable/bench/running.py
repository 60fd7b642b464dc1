"""A hub with a worker on an empty store, what a stretch of its life cost, and the floor below that.

Rule of this file: what every workload is asked for beside its own figures is found here, in one way for all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from durable.bench.measuring import Span, measured, peak_bytes
from durable.bench.recording import RecordingBackend, Repetition
from durable.bench.stores import Place, Store
from durable.hub import TaskHub
from durable.registry import Registry
from durable.settings import Settings

SECONDS, FLOOR_SECONDS = "seconds", "floor seconds"
"""How long the measured block took, and its floor."""

SETTINGS = Settings()
"""The defaults, whatever the environment says: figures are compared between machines."""


class Run:
    """A hub that runs instances in this process; ``measured`` is to be used once."""

    def __init__(self, hub: TaskHub, place: Place, backend: RecordingBackend, store: Store) -> None:
        self.hub = hub
        self._place = place
        self._backend = backend
        self._store = store
        self._span = Span()
        self._stretch = slice(0, 0)
        self._spent: dict[str, float] = {}
        self._peak: int | None = None

    @contextmanager
    def measured(self) -> Iterator[Span]:
        """Measure the block: time, commits, what the store counts, bytes stored."""
        meter, began = self._place.meter, len(self._backend.steps)
        size, counts, commits = meter.size(), meter.counts(), self._backend.commits
        with measured() as self._span:
            yield self._span
        self._peak = peak_bytes()
        self._stretch = slice(began, len(self._backend.steps))
        self._spent = {"commits": self._backend.commits - commits}
        self._spent |= {name: number - counts[name] for name, number in meter.counts().items()}
        if size is not None and (now := meter.size()) is not None:
            self._spent["bytes"] = now - size

    async def costs(self, count: int) -> dict[str, float]:
        """What the measured block cost for each of ``count``; with the floor, where writes were kept.

        To be called when the worker has stopped, so that nothing else runs beside the floor.
        """
        figures = {"CPU ms each": self._span.cpu / count * 1e3}
        figures |= {f"{name} each": number / count for name, number in self._spent.items()}
        figures[SECONDS] = self._span.wall
        if self._peak is not None:
            figures["peak MiB"] = self._peak / 2**20
        if self._store.floors:
            span = await self._floor()
            figures |= {"floor CPU ms each": span.cpu / count * 1e3, FLOOR_SECONDS: span.wall}
        return figures

    async def _floor(self) -> Span:
        """Writing what the block wrote to an empty store, to which was written before what the worker wrote before."""
        backend = self._store.fresh().backend()
        await backend.open(SETTINGS.partitions)
        try:
            repetition = Repetition(backend)
            await repetition.write(self._backend.steps[: self._stretch.start])
            with measured() as span:
                await repetition.write(self._backend.steps[self._stretch])
        finally:
            await backend.close()
        return span


@asynccontextmanager
async def running(
    store: Store, registry: Registry, *, place: Place | None = None, **settings: Any
) -> AsyncIterator[Run]:
    """A hub with a worker at ``place``, by default an empty one; ``settings`` are the worker's."""
    place = place or store.fresh()
    backend = RecordingBackend(place.backend(), keep=store.floors)
    hub = TaskHub(backend, name=place.hub, settings=SETTINGS)
    hub.include(registry)
    async with hub.worker(**settings):
        yield Run(hub, place, backend, store)
