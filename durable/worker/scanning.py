"""Finding work in the store: after a take-over, on a hint, and in time before it is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from durable.backend import Backend, BackendUnavailable, Wakeup
from durable.clock import Clock
from durable.worker.timers import HORIZON

_log = logging.getLogger("durable.worker")

_PAGE = 1000
_STORE_RETRY = 1.0
_WHOLE_INTERVAL = HORIZON / 2_000_000
_SWEEP_INTERVAL = 3600.0
_TOMBSTONES_KEPT = 7 * 24 * 3600 * 1_000_000


class Scanner:
    """Looks through the store for instances of ``owned`` partitions and hands them to ``found``, page by page."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        owned: Callable[[], frozenset[int]],
        found: Callable[[Sequence[Wakeup]], None],
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._owned = owned
        self._found = found
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Something changed in the store; look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Scan until cancelled: on a hint for what is new, and regularly for all that is due before the next time.

        Regularly for busy ones too: a former owner may have committed after this one looked for the first time.
        """
        loop = asyncio.get_running_loop()
        next_whole = loop.time() + _WHOLE_INTERVAL
        while True:
            try:
                async with asyncio.timeout_at(next_whole):
                    await self._wanted.wait()
            except TimeoutError:
                next_whole = loop.time() + _WHOLE_INTERVAL
                whole = True
            else:
                whole = False
            self._wanted.clear()
            await self.scan(self._owned(), include_busy=whole)

    async def scan(self, partitions: Collection[int], *, include_busy: bool) -> None:
        """Hand over everything in these partitions that is due within the horizon, as long as they are owned."""
        after: str | None = None
        while current := self._owned().intersection(partitions):
            try:
                page = await self._backend.runnable(
                    current, self._clock() + HORIZON, include_busy=include_busy, after=after, limit=_PAGE
                )
            except BackendUnavailable:
                await asyncio.sleep(_STORE_RETRY)
                continue
            self._found(page)
            if len(page) < _PAGE:
                return
            after = page[-1].instance_id

    async def keep_sweeping(self) -> None:
        """Upkeep of the store, once an hour."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL)
            try:
                await self._backend.sweep(self._clock() - _TOMBSTONES_KEPT)
            except BackendUnavailable as error:
                _log.warning("upkeep is put off: %s", error)
