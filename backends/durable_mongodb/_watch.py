"""Hints from change streams; where there are none, or they break, "look for yourself" at intervals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from durable.backend import BackendError, Hint
from durable_mongodb._driver import ChangeStream, Connection, Document
from durable_mongodb._errors import ChangeStreamsUnsupported

_logger = logging.getLogger(__name__)
_LOOK_FOR_YOURSELF = Hint(None)
_POLL_SECONDS = 1.0
_POLLS_WITHOUT_STREAMS = 60
"""How many hints pass before a server that had no change streams is asked again."""


class Watcher:
    """All ``watch`` calls of one connection. Never raises what the store does: a hint is never needed."""

    def __init__(self, connection: Connection, instances: str, inbox: str) -> None:
        self._connection = connection
        self._instances = instances
        self._stages = _stages(instances, inbox)
        self._closed = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    async def hints(self) -> AsyncIterator[Hint]:
        """See :meth:`durable.backend.Backend.watch`."""
        while not self._closed.is_set():
            polls = 1
            try:
                async for hint in self._streamed():
                    yield hint
            except ChangeStreamsUnsupported:
                polls = _POLLS_WITHOUT_STREAMS
            except BackendError as error:
                _logger.warning("change stream broken, polling until it is back: %s", error)
            for _ in range(polls):
                if await self._closed_within(_POLL_SECONDS):
                    return
                yield _LOOK_FOR_YOURSELF

    async def close(self) -> None:
        """End all hints at once, then free the streams."""
        self._closed.set()
        while self._ending:
            await asyncio.wait(self._ending)

    async def _streamed(self) -> AsyncIterator[Hint]:
        stream = await self._connection.watch(self._stages)
        pending: asyncio.Task[Document | None] | None = None
        started = False
        try:
            while not self._closed.is_set():
                pending = asyncio.create_task(stream.next())
                await self._done_or_closed(pending)
                if not pending.done():
                    return
                change = pending.result()
                if not started:  # what changed before the stream began is not in it
                    started = True
                    yield _LOOK_FOR_YOURSELF
                if change is not None:
                    yield self._hint(change)
        finally:
            self._end(_free(stream, pending))

    def _hint(self, change: Document) -> Hint:
        if change["ns"]["coll"] == self._instances:
            return Hint(change["documentKey"]["_id"])
        return Hint(change["fullDocument"]["instance_id"])

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _done_or_closed(self, pending: asyncio.Task[Any]) -> None:
        closed = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait({pending, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()

    async def _closed_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return False
        return True


async def _free(stream: ChangeStream, pending: asyncio.Task[Any] | None) -> None:
    """Close a stream once its last ``next``, which may not be cancelled, is through."""
    if pending is not None:
        await asyncio.wait({pending})
        if (error := pending.exception()) is not None:
            _logger.debug("the change stream had ended: %s", error)
    try:
        await stream.close()
    except BackendError as error:
        _logger.debug("the change stream could not be closed on the server: %s", error)


def _stages(instances: str, inbox: str) -> list[Document]:
    changed = {"ns.coll": instances, "operationType": {"$in": ["insert", "update", "replace"]}}
    sent = {"ns.coll": inbox, "operationType": "insert"}
    return [
        {"$match": {"$or": [changed, sent]}},
        {"$project": {"ns": 1, "documentKey._id": 1, "fullDocument.instance_id": 1}},
    ]
