"""Heartbeats: what running activities report, stored now and then for whoever delivers them next.

Rule of this file: they are for the next attempt's convenience and never relied on. They live in the instance's
record, which each of its turns writes anew, with what the worker that has it knows of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from durable.backend import Annotation, Backend
from durable.worker.live import LiveInstance
from durable.worker.patience import Patience

INTERVAL = 1.0
"""Seconds between two writes."""


class Heartbeats:
    """Collects what activities report.

    ``live`` finds an instance that is in memory; ``caught_up`` waits until the store's record shows what is committed.
    """

    def __init__(
        self,
        backend: Backend,
        patience: Patience,
        live: Callable[[str], LiveInstance | None],
        caught_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._patience = patience
        self._live = live
        self._caught_up = caught_up
        self._news: dict[str, dict[str, str]] = {}
        self._something = asyncio.Event()

    def report(self, instance_id: str, task_id: int, details: str) -> None:
        """An activity of an instance reported ``details`` (JSON text)."""
        self._news.setdefault(instance_id, {})[str(task_id)] = details
        live = self._live(instance_id)
        if live is not None:
            live.heartbeats[str(task_id)] = details
        self._something.set()

    async def run(self) -> None:
        """Store until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            news = await self._take()
            if news:
                await self._patience.insist(partial(self._store, news))
            await asyncio.sleep(INTERVAL)

    async def _take(self) -> dict[str, dict[str, str]]:
        """What is to be stored now: a record that a turn made before the report would put an older one in its place."""
        names = list(self._news)
        for instance_id in names:
            await self._caught_up(instance_id)
        news = {name: self._news.pop(name) for name in names if not self._in_turn(name)}
        if self._news:
            self._something.set()
        return news

    def _in_turn(self, instance_id: str) -> bool:
        live = self._live(instance_id)
        return live is not None and live.under_way

    async def _store(self, news: dict[str, dict[str, str]]) -> None:
        records = await self._backend.get(list(news))
        notes = [
            Annotation(
                record.instance_id,
                record.rev,
                record.problem,
                record.recoveries,
                {**(record.heartbeats or {}), **news[record.instance_id]},
            )
            for record in records
            if record is not None and not record.status.is_terminal
        ]
        if notes:
            await self._backend.annotate(notes)
