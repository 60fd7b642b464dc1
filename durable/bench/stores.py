"""The stores to measure on: empty hubs of the suite's own, what they count, how large they are, and their removal.

Rule of this file: nothing is measured in a hub that somebody uses, and nothing is left behind. On SQLite that is a
file beside the one that was named: tables taken out of a file would leave it larger. On MongoDB it is a hub of its own
in the database that was named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from durable.backend import Backend
from durable.backend_url import create_backend
from durable.bench import mongodb, sqlite

KINDS = ("sqlite", "mongodb", "memory")


class Meter(Protocol):
    """What can be known of a hub's store from outside of the engine."""

    def counts(self) -> Mapping[str, int]:
        """What has been counted so far, by what it is; differences count."""
        ...

    def size(self) -> int | None:
        """Bytes that are stored; None where nobody knows."""
        ...


class _NoMeter:
    def counts(self) -> Mapping[str, int]:
        return {}

    def size(self) -> int | None:
        return None


@dataclass(frozen=True)
class Place:
    """An empty hub: where it is and what is known of its store."""

    url: str
    hub: str
    meter: Meter

    def backend(self) -> Backend:
        """A backend on it, not open."""
        return create_backend(self.url, self.hub)


@dataclass(frozen=True)
class Store:
    """Where the hubs of one suite are made; ``folder`` is for files. ``floors``: writes are kept, to be written again.

    A value that can go to another process (``as_json``).
    """

    kind: str
    url: str
    prefix: str
    folder: str = ""
    floors: bool = True

    def as_json(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)

    def fresh(self) -> Place:
        """An empty hub."""
        name = f"{self.prefix}_{uuid4().hex[:12]}"
        match self.kind:
            case "sqlite":
                path = Path(self.folder) / f"{name}.db"
                query = urlsplit(self.url).query
                url = f"sqlite:///{quote(str(path))}" + (f"?{query}" if query else "")
                return Place(url, self.prefix, sqlite.FileMeter(path))
            case "mongodb":
                return Place(self.url, name, mongodb.HubMeter(self.url, name))
            case _:
                return Place(f"memory://{name}", self.prefix, _NoMeter())

    def clear(self) -> None:
        """Take away every hub that was made here."""
        match self.kind:
            case "sqlite":
                for path in Path(self.folder).iterdir():
                    path.unlink()
            case "mongodb":
                mongodb.drop(self.url, self.prefix)


@contextmanager
def a_store(url: str | None) -> Iterator[Store]:
    """Where hubs can be made at ``url``, by default SQLite files in a temporary folder; what was made goes at the end.

    Raises ValueError for a URL that cannot be used, or a store that the suite could not leave as it was; OSError for a
    SQLite file whose folder is not there or cannot be written to, BackendError for a server that does not answer.
    """
    kind = "sqlite" if url is None else urlsplit(url).scheme.partition("+")[0]
    if kind not in KINDS:
        raise ValueError(f"benchmarks run on {', '.join(KINDS)}, not on {kind!r}: they could not clean up there")
    if url is not None:
        create_backend(url, "bench")  # raises for a URL that is not right
    if kind == "mongodb":
        mongodb.server_version(url or "")  # raises where there is nobody to ask, before there is anything to clear
    prefix = f"bench_{uuid4().hex[:8]}"
    folder = _folder(url) if kind == "sqlite" else ""
    store = Store(kind, url or "", prefix, folder)
    try:
        yield store
    finally:
        store.clear()
        if folder:
            Path(folder).rmdir()


def _folder(url: str | None) -> str:
    """A new folder for files: beside the one that is named, so on the same disk."""
    beside = None if url is None else Path(unquote(urlsplit(url).path[1:])).absolute().parent
    return tempfile.mkdtemp(prefix="durable-bench-", dir=beside)
