"""The only module that touches a MongoDB driver: motor, or pymongo's own asyncio client in its place.

Rule of this file: thin. It opens the client with the settings that the port needs, and turns what the two
drivers do differently into one set of coroutines that raise the port's errors. Every write is
acknowledged by a majority and journaled, whatever the URL says.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar, cast

import bson
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument as EncodedDocument
from pymongo import DeleteMany, IndexModel, ReadPreference, UpdateOne
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from durable.backend import BackendClosed, BackendError
from durable.transactions import TransactionsNotSupportedError
from durable_mongodb._errors import translated
from durable_mongodb._url import Driver, MongoUrl

R = TypeVar("R")

Document: TypeAlias = dict[str, Any]
Sort: TypeAlias = Sequence[tuple[str, int]]

__all__ = [
    "DURABILITY",
    "ChangeStream",
    "Collection",
    "Connection",
    "DeleteMany",
    "Document",
    "EncodedDocument",
    "IndexModel",
    "UpdateOne",
    "client_class",
    "decode",
    "encode",
    "plain",
]

_DURABLE = WriteConcern(w="majority", j=True)
DURABILITY = "w=majority, j=true"
"""What an acknowledged write has been through."""

_DUPLICATE_KEY = 11000
# Not timeoutMS: it would replace the time for finding a server, which is to be short.
_DEFAULTS: dict[str, Any] = {
    "appName": "durable",
    "connectTimeoutMS": 2_000,
    "heartbeatFrequencyMS": 2_000,
    "serverSelectionTimeoutMS": 3_000,
    "socketTimeoutMS": 10_000,
}
_STREAM_AWAIT_MS = 500


def encode(document: Mapping[str, Any]) -> EncodedDocument:
    """A document as bytes (``raw``), which the drivers send as they are."""
    return EncodedDocument(bson.encode(document))


def decode(raw: bytes) -> Document:
    """The document of these bytes."""
    document: Document = bson.decode(raw)
    return document


def plain(document: Mapping[str, Any]) -> Document:
    """A copy whose integers, at any depth, are plain ints: BSON's 64-bit ones come as a class of their own."""
    return {name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, dict):
        return plain(value)
    return [_plain(part) for part in value] if isinstance(value, list) else value


class Collection:
    """One collection. Empty writes are skipped; every error is one of the port's."""

    def __init__(self, connection: Connection, raw: Any, majority: Any) -> None:
        self._connection = connection
        self._raw = raw
        self._majority = majority

    async def create_indexes(self, indexes: Sequence[IndexModel]) -> None:
        """Create those of ``indexes`` that are missing."""
        async with self._connection.operation():
            await self._raw.create_indexes(list(indexes))

    async def insert(self, documents: Sequence[Mapping[str, Any]]) -> list[int]:
        """Insert all whose ``_id`` is new, in one command; return the positions of the others."""
        if not documents:
            return []
        async with self._connection.operation():
            try:
                await self._raw.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                return _duplicates(error)
        return []

    async def write_each(self, writes: Sequence[UpdateOne] | Sequence[DeleteMany]) -> None:
        """Apply writes of one kind that do not depend on each other, in one command."""
        if writes:
            async with self._connection.operation():
                await self._raw.bulk_write(writes, ordered=False)

    async def update(
        self,
        where: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        upsert: bool = False,
        index: str | None = None,
    ) -> int:
        """Apply one change to all documents ``where`` finds, each atomically; return how many it found."""
        async with self._connection.operation():
            answer = await self._raw.update_many(where, change, upsert=upsert, hint=index)
            return int(answer.matched_count)

    async def delete(self, where: Mapping[str, Any], *, index: str | None = None) -> int:
        """Delete all documents ``where`` finds; return how many went."""
        async with self._connection.operation():
            answer = await self._raw.delete_many(where, hint=index)
            return int(answer.deleted_count)

    async def find(
        self,
        where: Mapping[str, Any],
        *,
        fields: Sequence[str] | None = None,
        sort: Sort = (),
        limit: int = 0,
        index: str | None = None,
        majority: bool = False,
    ) -> list[Document]:
        """The documents ``where`` finds; ``majority`` sees only what no fail-over can take back."""
        async with self._connection.operation():
            source = self._majority if majority else self._raw
            cursor = source.find(where, fields, sort=list(sort) or None, limit=limit, hint=index)
            found: list[Document] = await cursor.to_list(None)
            return found

    async def aggregate(self, stages: Sequence[Mapping[str, Any]], *, index: str | None = None) -> list[Document]:
        """The documents that come out of an aggregation pipeline."""
        async with self._connection.operation():
            cursor = await _settled(self._raw.aggregate(list(stages), **({"hint": index} if index else {})))
            found: list[Document] = await cursor.to_list(None)
            return found


def _duplicates(error: BulkWriteError) -> list[int]:
    details = cast("Mapping[str, Any]", error.details)
    problems = details.get("writeErrors", ())
    if details.get("writeConcernErrors") or any(problem.get("code") != _DUPLICATE_KEY for problem in problems):
        raise error
    return [int(problem["index"]) for problem in problems]


async def _settled(value: Any) -> Any:
    """What pymongo returns as a coroutine, motor returns at once."""
    return await value if inspect.isawaitable(value) else value


class ChangeStream:
    """A stream of changes. :meth:`next` may not be cancelled: motor would go on with it in its thread."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def next(self) -> Document | None:
        """The next change, or None when there was none for half a second. Raises BackendError when the stream ended."""
        with translated():
            change: Document | None = await self._raw.try_next()
            if change is None and not self._raw.alive:
                raise BackendError("the change stream ended")
            return change

    async def close(self) -> None:
        """Free the stream on the server."""
        with translated():
            await self._raw.close()


class Connection:
    """A client on one database. Belongs to the event loop that made it."""

    def __init__(self, url: MongoUrl) -> None:
        settings = {name: value for name, value in _DEFAULTS.items() if name.lower() not in url.options}
        with translated():
            self._client: Any = client_class(url.driver)(url.connection_string, **settings)
            self._database: Any = self._client.get_database(
                url.database,
                read_preference=ReadPreference.PRIMARY,
                read_concern=ReadConcern(),
                write_concern=_DURABLE,
            )
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._replicated = False
        self.database_name: str = url.database

    async def connect(self) -> None:
        """Meet the server. Raises BackendUnavailable when there is none."""
        async with self.operation():
            hello: Document = await self._client.admin.command("hello")
            self._replicated = "setName" in hello or hello.get("msg") == "isdbgrid"

    async def collection_names(self) -> list[str]:
        """The names of the database's collections."""
        async with self.operation():
            names: list[str] = await self._database.list_collection_names()
            return names

    def collection(self, name: str) -> Collection:
        """The collection of that name; call after :meth:`connect`."""
        raw = self._database[name]
        majority = raw.with_options(read_concern=ReadConcern("majority")) if self._replicated else raw
        return Collection(self, raw, majority)

    async def watch(self, stages: Sequence[Mapping[str, Any]]) -> ChangeStream:
        """A stream of the database's changes. It, or its first ``next``, raises ChangeStreamsUnsupported."""
        with translated(), _no_cancel_lost():
            raw = await _settled(self._database.watch(list(stages), max_await_time_ms=_STREAM_AWAIT_MS))
            return ChangeStream(raw)

    def check_transactions(self) -> None:
        """Raises TransactionsNotSupportedError for a standalone server, which has none."""
        if not self._replicated:
            raise TransactionsNotSupportedError("this MongoDB server has no transactions: it is not in a replica set")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """A new client session; :meth:`close` waits for its end. Errors come as the driver raises them."""
        with self._used():
            async with await _settled(self._client.start_session()) as session:
                yield session

    @staticmethod
    async def with_transaction(session: Any, work: Callable[[Any], Awaitable[R]]) -> R:
        """Run ``work`` in a durable transaction of ``session``, again as often as the server asks for it."""
        done: R = await session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=_DURABLE, read_preference=ReadPreference.PRIMARY
        )
        return done

    @asynccontextmanager
    async def operation(self) -> AsyncIterator[None]:
        """One use of the client; :meth:`close` waits for it. Raises BackendClosed after :meth:`close`."""
        with self._used(), translated(), _no_cancel_lost():
            yield

    @contextmanager
    def _used(self) -> Iterator[None]:
        if self._closed:
            raise BackendClosed("the MongoDB backend is closed")
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def close(self) -> None:
        """Let the operations under way finish, then disconnect."""
        self._closed = True
        await self._idle.wait()
        await _settled(self._client.close())


@contextmanager
def _no_cancel_lost() -> Iterator[None]:
    """Raise the cancel that the driver dropped, or whoever cancelled would wait for ever.

    Before Python 3.12 ``asyncio.wait_for``, by which pymongo writes, returns its result instead when the two
    come in the same pass of the event loop.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    yield
    if task.cancelling() > before:
        raise asyncio.CancelledError


def client_class(driver: Driver) -> Any:
    """The driver's client class. Raises ModuleNotFoundError, saying what to install, when there is none."""
    if driver is Driver.PYMONGO:
        from pymongo import AsyncMongoClient

        return AsyncMongoClient
    try:
        from motor.motor_asyncio import AsyncIOMotorClient
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"the MongoDB backend needs the package {missing.name!r}; install it with: pip install "
            "'durable-orchestrations[mongodb]', or add driver=pymongo to the URL's query to use pymongo's own client",
            name=missing.name,
        ) from missing
    return AsyncIOMotorClient
