"""Catching up: reading from the store what the exporting thread has not seen, or could not keep.

Rule of this file: runs in the event loop, as the store's connection does, and reads one history at a time. What cannot
be read now is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import replace

from durable.backend import Backend, BackendUnavailable, Checkpoint, Query
from durable.clock import Clock
from durable.core.errors import UnsupportedHistoryError
from durable.core.ids import earlier_execution_id
from durable_otel._pending import Key, Pending, Turns
from durable_otel._settings import TraceSettings
from durable_otel._spans import suppressed

_log = logging.getLogger("durable.otel")

_PAGE = 200
_LOOK = 0.1
_RETRY = 1.0


class CatchUp:
    """Brings the executions that are behind to the exporting thread."""

    def __init__(self, backend: Backend, clock: Clock, pending: Pending, settings: TraceSettings) -> None:
        self._backend = backend
        self._clock = clock
        self._pending = pending
        self._settings = settings
        self._gained: set[int] = set()
        self._gained_at = 0

    def gained(self, partitions: Collection[int]) -> None:
        """Look at these partitions: whoever had them may have died with spans that it had not exported."""
        if self._settings.catch_up:
            self._gained |= set(partitions)
            self._gained_at = self._clock()

    async def run(self) -> None:
        """Work until cancelled."""
        suppressed()
        while True:
            try:
                if not await self.step():
                    await asyncio.sleep(_LOOK)
            except BackendUnavailable:
                await asyncio.sleep(_RETRY)

    async def step(self) -> bool:
        """Do one piece of work; False when there is none."""
        if self._gained:
            await self._look_at(frozenset(self._gained))
            return True
        found = self._pending.next_behind()
        if found is None:
            return False
        key, forced = found
        try:
            await self._read(key, forced)
        except BaseException:
            self._pending.leave_behind(key, forced=forced)
            raise
        return True

    async def _read(self, key: Key, forced: bool) -> None:
        checkpoints: list[Checkpoint] = []
        try:
            while page := await self._backend.load(*key, from_seq=len(checkpoints), limit=_PAGE):
                checkpoints += page
                if len(page) < _PAGE:
                    break
        except UnsupportedHistoryError as error:
            _log.warning("instance %r cannot be traced here: %s", key[0], error)
            return
        if checkpoints:  # else it was purged, or its former executions are gone
            self._pending.add_whole(Turns(tuple(checkpoints), whole=True, forced=forced))

    async def _look_at(self, partitions: frozenset[int]) -> None:
        """Leave behind what changed lately in these partitions: instances and entities. Later changes are told."""
        until = self._gained_at
        since = until - round(self._settings.catch_up * 1_000_000)
        for entities in (False, True):
            lately = Query(page_size=_PAGE, entities=entities, updated_from=since, updated_to=until)
            query: Query | None = lately
            seen = 0
            while query is not None and seen < self._settings.catch_up_instances:
                page = await self._backend.query(query)
                seen += len(page.records)
                for record in page.records:
                    if record.partition in partitions:
                        former = earlier_execution_id(record.execution_id, 1)
                        for execution_id in (former, record.execution_id):
                            if execution_id is not None:
                                self._pending.leave_behind((record.instance_id, execution_id))
                query = None if page.continuation is None else replace(lately, continuation=page.continuation)
        self._gained -= partitions
