"""Hints from change streams; where there are none, or they break, "look for yourself" at intervals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

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

    def __init__(self, connection: Connection, hub: str) -> None:
        self._connection = connection
        self._hub = hub
        self._stages = _stages(hub)
        self._closed = asyncio.Event()
        self._open: set[_Listener] = set()

    async def hints(self) -> AsyncIterator[Hint]:
        """See :meth:`durable.backend.Backend.watch`."""
        while not self._closed.is_set():
            polls = 1
            try:
                async with aclosing(self._streamed()) as hints:
                    async for hint in hints:
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
        """End all hints at once, then free the streams, those of watchers that went away without a word too."""
        self._closed.set()
        await asyncio.gather(*(listener.close() for listener in self._open))
        self._open.clear()

    async def _streamed(self) -> AsyncGenerator[Hint, None]:
        listener = _Listener(await self._connection.watch(self._stages))
        self._open.add(listener)
        started = False
        try:
            while await listener.wait(self._closed):
                change = listener.take()
                if not started:  # what changed before the stream began is not in it
                    started = True
                    yield _LOOK_FOR_YOURSELF
                if change is not None:
                    yield self._hint(change)
        finally:
            # Not on close, and not awaited: what goes on in motor's threads would hold up whoever leaves.
            if not self._closed.is_set():
                closing = asyncio.ensure_future(listener.close())
                closing.add_done_callback(lambda _: self._open.discard(listener))

    def _hint(self, change: Document) -> Hint:
        key = change["documentKey"]["_id"]
        match change["ns"]["coll"].removeprefix(f"{self._hub}."):
            case "instances":
                return Hint(key)
            case "tasks":
                return Hint(None, queue=change["fullDocument"]["queue"])
            case "queues":
                return Hint(None, queue=key)
            case _:
                return Hint(change["fullDocument"]["instance_id"], key)

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True


class _Listener:
    """A change stream and its ``next`` under way, which may be left alone but not cancelled."""

    def __init__(self, stream: ChangeStream) -> None:
        self._stream = stream
        self._pending: asyncio.Task[Document | None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def wait(self, closed: asyncio.Event) -> bool:
        """Wait for the stream's answer; False when ``closed`` comes before it."""
        if closed.is_set():
            return False
        self._pending = asyncio.create_task(self._stream.next())
        ending = asyncio.create_task(closed.wait())
        try:
            await asyncio.wait({self._pending, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
        return self._pending.done()

    def take(self) -> Document | None:
        """The answer that came: a change or None. Raises BackendError when the stream broke."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return pending.result()

    async def close(self) -> None:
        """Free the stream, once its last ``next`` is through. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await self._closing

    async def _close(self) -> None:
        pending = self._pending
        if pending is not None:
            await asyncio.wait({pending})  # meanwhile whoever watches may take the answer
            if (error := pending.exception()) is not None:
                _logger.debug("the change stream had ended: %s", error)
        try:
            await self._stream.close()
        except BackendError as error:
            _logger.debug("the change stream could not be closed on the server: %s", error)


def _stages(hub: str) -> list[Document]:
    changed = {
        "ns.coll": f"{hub}.instances",
        "operationType": {"$in": ["insert", "update", "replace"]},
        "updateDescription.updatedFields.purging": {"$ne": True},  # nobody has anything to do for what goes
    }
    sent = {"ns.coll": {"$in": [f"{hub}.inbox", f"{hub}.tasks"]}, "operationType": "insert"}
    freed = {"ns.coll": f"{hub}.queues", "updateDescription.updatedFields.freed": {"$exists": True}}
    fields = ("ns", "documentKey._id", "fullDocument.instance_id", "fullDocument.queue")
    return [{"$match": {"$or": [changed, sent, freed]}}, {"$project": dict.fromkeys(fields, 1)}]
