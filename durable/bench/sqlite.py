"""What can be known of a SQLite file from outside: how often it was synced, how large it is, what a sync takes."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from urllib.parse import quote

_CHANGES = 8, 12
"""Where the index of a write-ahead log has the number of transactions (https://sqlite.org/walformat.html, iChange)."""

_PROBES = 50


class FileMeter:
    """The meter of a file in WAL mode that somebody has open. It reads and locks nothing for long."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def counts(self) -> Mapping[str, int]:
        """``syncs``: with ``synchronous=FULL`` a transaction that commits syncs the log once.

        The syncs of checkpoints, one or two for each few thousand pages, are not counted.
        """
        with self._path.with_name(f"{self._path.name}-shm").open("rb") as index:
            head = index.read(_CHANGES[1])
        return {"syncs": int.from_bytes(head[slice(*_CHANGES)], sys.byteorder)}

    def size(self) -> int:
        """Bytes of the pages in use, indexes included: the size that the file has after a checkpoint and a VACUUM."""
        with closing(sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)) as connection:
            pages, free, page = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * page)


def sync_seconds(folder: Path) -> float:
    """What appending a page to a file in ``folder`` and syncing it takes; the median of some."""
    path, times = folder / "sync.probe", []
    with path.open("wb", buffering=0) as file:
        for _ in range(_PROBES):
            file.write(b"\0" * 4096)
            start = perf_counter()
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
            times.append(perf_counter() - start)
    path.unlink()
    return median(times)
