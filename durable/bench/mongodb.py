"""What can be known of a MongoDB hub from outside, and its removal; by pymongo's own client.

Rule of this file: the driver is imported where it is used, so that benchmarks on other stores do not need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from durable.backend import BackendError

if TYPE_CHECKING:
    from pymongo.database import Database

_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})
_DEFAULT_DATABASE = "durable"  # as in the backend's URLs
_FIND_MS = 3_000  # as the backend's


class HubMeter:
    """The meter of one hub. It sees the commands of clients that are made after it, in this process."""

    def __init__(self, url: str, hub: str) -> None:
        self._url = url
        self._hub = hub
        self._sent = _counter()

    def counts(self) -> Mapping[str, int]:
        """``write commands`` that this process has sent; each is answered after a majority has it in its journal."""
        return {"write commands": self._sent[0]}

    def size(self) -> int:
        """Bytes of the hub's documents, before the server compresses them and without indexes."""
        with _database(self._url) as database:
            names = _collections(database, f"{self._hub}.")
            return sum(int(database.command("collStats", name)["size"]) for name in names)


def drop(url: str, prefix: str) -> None:
    """Drop the collections whose names begin with ``prefix``."""
    with _database(url) as database:
        for name in _collections(database, prefix):
            database[name].delete_many({})  # there are servers that sync for each document of what they drop
            database.drop_collection(name)


def server_version(url: str) -> str:
    """The version that the server says it has."""
    with _database(url) as database:
        return str(database.client.server_info()["version"])


def _collections(database: Database[dict[str, Any]], prefix: str) -> list[str]:
    return [name for name in database.list_collection_names() if name.startswith(prefix)]


@contextmanager
def _database(url: str) -> Iterator[Database[dict[str, Any]]]:
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    parts = urlsplit(url)
    options = [option for option in parts.query.split("&") if not option.lower().startswith("driver=")]
    location = parts._replace(query="&".join(options)).geturl()
    try:
        with MongoClient[dict[str, Any]](location, serverSelectionTimeoutMS=_FIND_MS) as client:
            yield client.get_default_database(_DEFAULT_DATABASE)
    except PyMongoError as error:
        raise BackendError(f"MongoDB did not do it: {error}") from error


@cache
def _counter() -> list[int]:
    """The number of write commands sent by the clients of this process, counted from the first call on."""
    from pymongo import monitoring

    sent = [0]

    class Listener(monitoring.CommandListener):
        def started(self, event: monitoring.CommandStartedEvent) -> None:
            if event.command_name in _WRITES and event.database_name != "admin":
                sent[0] += 1

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

        def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    monitoring.register(Listener())
    return sent
