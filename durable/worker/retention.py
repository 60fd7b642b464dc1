"""Retention: when an instance may go, and purging those whose time has come.

Rule of this file: the time is fixed when an instance ends, in its last commit; a setting that changes later is for
those that end later. The owner of partition 0 purges for the whole hub, so one worker does it and the others need not
know; two that both believe to own it do no harm, as a purge is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import uniform

from durable.backend import Backend, BackendUnavailable
from durable.clock import Clock
from durable.core.state import RuntimeStatus
from durable.registry import Registry
from durable.retaining import Kept, parse_retain
from durable.settings import Settings

_log = logging.getLogger("durable.worker")

INTERVAL = 60.0
"""Seconds between two rounds, give or take half of it: workers that start together do not ask together."""

_BATCH = 100
_PAUSE = 0.1
_PURGING_PARTITION = 0


class Retention:
    """How long instances are kept: as their orchestrator says where it does, else as the settings of this worker."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._default: Kept = {} if settings.retain is None else parse_retain(settings.retain, "setting retain")

    def purge_at(self, name: str, status: RuntimeStatus, completed_at: int) -> int | None:
        """When an instance that has ended may be purged, in microseconds; None for one that is kept for ever."""
        definition = self._registry.orchestrators.get(name)
        kept = self._default if definition is None or definition.retain is None else definition.retain
        duration = kept.get(status)
        return None if duration is None else completed_at + duration


class Purger:
    """Purges expired instances of the hub, and finishes purges that a crash cut off, while ``owned`` says so."""

    def __init__(self, backend: Backend, clock: Clock, owned: Callable[[], frozenset[int]]) -> None:
        self._backend = backend
        self._clock = clock
        self._owned = owned

    async def run(self) -> None:
        """Purge, round after round, until cancelled."""
        while True:
            await asyncio.sleep(uniform(0.5 * INTERVAL, 1.5 * INTERVAL))
            try:
                await self._purge_expired()
            except BackendUnavailable as error:
                _log.warning("purging is put off: %s", error)

    async def _purge_expired(self) -> None:
        """Purge in batches, with pauses in which others get at the store."""
        while _PURGING_PARTITION in self._owned():
            expired = await self._backend.expired(self._clock(), _BATCH)
            if not expired:
                return
            gone = await self._backend.purge(expired)
            _log.info("purged %d instances whose retention is over", gone)
            if not gone:
                return  # others were faster, or they are held now
            await asyncio.sleep(_PAUSE)
