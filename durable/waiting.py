"""Waiting for instances to begin or end: told by the worker of this process or by hints, and by reading as the truth.

Rule of this file: a waiter costs one future. All who wait share one reader, which asks the store for
many instances at once; nothing is lost when a hint is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from durable.backend import Backend, BackendUnavailable, InstanceRecord
from durable.core.errors import InstanceNotFoundError
from durable.core.state import RuntimeStatus
from durable.offload import MissingPayloadError, restore_record

POLL = 0.5
"""Seconds between two looks at the store for those of whom nothing was heard."""

_BATCH = 500

News: TypeAlias = asyncio.Future[InstanceRecord]


class Waiters:
    """Who in this process waits for an instance to begin, or to end.

    ``is_live`` says whether an instance is in the memory of this process's worker, which tells of its end.
    """

    def __init__(self, backend: Backend, is_live: Callable[[str], bool]) -> None:
        self._backend = backend
        self._is_live = is_live
        self._waiting: dict[str, dict[News, bool]] = {}
        self._hinted: set[str] = set()
        self._look_at_all = False
        self._something = asyncio.Event()

    async def wait(self, instance_id: str, *, start: bool = False) -> InstanceRecord:
        """The terminal record of an instance as soon as there is one. Raises InstanceNotFoundError.

        With ``start`` it is the first one that is not Pending any more.
        """
        news: News = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance_id, {})[news] = start
        if start or not self._is_live(instance_id):
            self.hint(instance_id)
        try:
            return await news
        finally:
            waiting = self._waiting.get(instance_id, {})
            waiting.pop(news, None)
            if not waiting:
                self._waiting.pop(instance_id, None)

    def committed(self, record: InstanceRecord) -> None:
        """The store holds this state of an instance now."""
        waiting = self._waiting.get(record.instance_id)
        if waiting and (record.status.is_terminal or any(waiting.values())):
            self._tell(record.instance_id, record)

    def hint(self, instance_id: str | None) -> None:
        """Something changed: this instance, or (None) some."""
        if instance_id is None:
            self._look_at_all = True
        elif instance_id in self._waiting:
            self._hinted.add(instance_id)
        else:
            return
        self._something.set()

    async def run(self) -> None:
        """Read the store for those who wait, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL):
                    await self._something.wait()
                everybody = self._look_at_all
            except TimeoutError:
                everybody = True
            self._something.clear()
            names = self._to_look_at() if everybody else list(self._hinted)
            self._hinted.clear()
            self._look_at_all = False
            try:
                await self._look(names)
            except BackendUnavailable:
                await asyncio.sleep(POLL)
                self.hint(None)

    def _to_look_at(self) -> list[str]:
        """All but those of which the worker tells: it may have told of the start before anybody waited."""
        return [name for name, who in self._waiting.items() if any(who.values()) or not self._is_live(name)]

    async def _look(self, names: list[str]) -> None:
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            for name, record in zip(batch, await self._backend.get(batch), strict=True):
                if record is None:
                    self._fail(name, InstanceNotFoundError(f"there is no instance {name!r} in this task hub"))
                elif self._wanting(name, record):
                    await self._tell_stored(name, record)

    async def _tell_stored(self, instance_id: str, record: InstanceRecord) -> None:
        try:
            self._tell(instance_id, await restore_record(self._backend, record))
        except MissingPayloadError as error:
            self._fail(instance_id, error)  # the store is damaged for this instance; the others go on

    def _wanting(self, instance_id: str, record: InstanceRecord) -> list[News]:
        """Who waits for what this record shows."""
        if record.status is RuntimeStatus.PENDING:
            return []
        waiting = self._waiting.get(instance_id, {})
        return [news for news, start in waiting.items() if start or record.status.is_terminal]

    def _tell(self, instance_id: str, record: InstanceRecord) -> None:
        for news in self._wanting(instance_id, record):
            if not news.done():  # whoever waits leaves the list himself
                news.set_result(record)

    def _fail(self, instance_id: str, error: Exception) -> None:
        for news in self._waiting.pop(instance_id, ()):
            if not news.done():
                news.set_exception(error)
