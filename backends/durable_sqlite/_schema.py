"""The tables of one task hub, and how a file comes to have them.

Rule of this file: every CREATE and PRAGMA of the backend is here. Table names start with the hub's name, so that
several hubs share a file.

* ``history`` and ``instances`` are joined by ``instances.id``, a small number that counts up. Instances that live at
  the same time have neighbouring numbers, so that a batch's checkpoints land on few pages; text keys would spread them.
* ``inbox`` is clustered by instance. A consumed message stays as a tombstone without its event.
* ``tasks`` holds the calls that wait in activity queues, or run; ``until`` above 0 makes one a claim.
* Each index is paid for at every commit. Partial ones hold only what waits, and of orchestrations and entities, which
  are never listed together, one kind each.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

from durable.backend import BackendError
from durable.core.ids import check_hub_name
from durable_sqlite._rows import ENTITIES, EXPIRING, ORCHESTRATIONS, has_tags
from durable_sqlite._threads import translated
from durable_sqlite._url import Location

SCHEMA_VERSION = 3
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING
_RETRY_SECONDS = 0.02

_TABLES = """
CREATE TABLE {hub}_instances (
    id INTEGER PRIMARY KEY,
    instance_id TEXT NOT NULL UNIQUE,
    execution_id TEXT NOT NULL,
    name TEXT NOT NULL,
    partition INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    input TEXT NOT NULL,
    status TEXT NOT NULL,
    rev INTEGER NOT NULL,
    version TEXT,
    tags TEXT,
    due_at INTEGER,
    completed_at INTEGER,
    output TEXT,
    custom_status TEXT,
    failure TEXT,
    problem TEXT,
    recoveries INTEGER NOT NULL,
    parent TEXT,
    heartbeats TEXT,
    purge_at INTEGER,
    hold TEXT
);
CREATE INDEX {hub}_instances_created ON {hub}_instances (created_at) WHERE {orchestrations};
CREATE INDEX {hub}_entities_created ON {hub}_instances (created_at) WHERE {entities};
CREATE INDEX {hub}_instances_due ON {hub}_instances (due_at, partition) WHERE due_at IS NOT NULL;
CREATE INDEX {hub}_instances_expiry ON {hub}_instances (purge_at) WHERE {expiring};
CREATE TABLE {hub}_history (
    instance INTEGER NOT NULL,
    execution_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    token TEXT NOT NULL,
    recoveries INTEGER NOT NULL,
    format INTEGER NOT NULL,
    events TEXT NOT NULL,
    PRIMARY KEY (instance, execution_id, seq)
);
CREATE TABLE {hub}_inbox (
    instance_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    partition INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    execution_id TEXT,
    consumed_at INTEGER,
    event TEXT,
    PRIMARY KEY (instance_id, message_id)
) WITHOUT ROWID;
CREATE INDEX {hub}_inbox_waiting ON {hub}_inbox (instance_id, partition) WHERE consumed_at IS NULL;
CREATE INDEX {hub}_inbox_consumed ON {hub}_inbox (consumed_at) WHERE consumed_at IS NOT NULL;
CREATE TABLE {hub}_partitions (
    partition INTEGER PRIMARY KEY,
    owner TEXT,
    expires_at INTEGER NOT NULL
);
CREATE TABLE {hub}_workers (
    worker_id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    process_started INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE {hub}_payloads (
    instance_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (instance_id, key)
);
"""

_UPGRADE_FROM_1 = """
ALTER TABLE {hub}_instances ADD COLUMN purge_at INTEGER;
ALTER TABLE {hub}_instances ADD COLUMN hold TEXT;
CREATE INDEX {hub}_instances_expiry ON {hub}_instances (purge_at) WHERE {expiring}
"""

_QUEUES = """
CREATE TABLE IF NOT EXISTS {hub}_tasks (
    task_id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    rank INTEGER NOT NULL,
    key TEXT,
    instance_id TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    event TEXT NOT NULL,
    offered_at INTEGER NOT NULL,
    number INTEGER NOT NULL,
    worker_id TEXT,
    until INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS {hub}_tasks_turns ON {hub}_tasks (queue, rank, task_id, until, name, key);
CREATE INDEX IF NOT EXISTS {hub}_tasks_claimed ON {hub}_tasks (queue, until) WHERE until > 0;
CREATE TABLE IF NOT EXISTS {hub}_queues (
    queue TEXT PRIMARY KEY,
    whole_at INTEGER NOT NULL
) WITHOUT ROWID
"""

_WRITER_PRAGMAS = ("synchronous=FULL", "cache_size=-65536", "journal_size_limit=67108864")
DURABILITY = f"journal_mode=WAL, {_WRITER_PRAGMAS[0]}"
"""What an acknowledged write has been through."""

_READER_PRAGMAS = ("query_only=1", "cache_size=-16384", "temp_store=MEMORY")


def check_table_prefix(hub: str) -> str:
    """Return ``hub``, or raise ValueError: it is not a hub name, or one that SQLite keeps for itself."""
    check_hub_name(hub)
    if hub.lower() == "sqlite" or hub.lower().startswith("sqlite_"):
        raise ValueError(
            f"task hub name {hub!r} cannot be used on SQLite, which keeps table names with 'sqlite_' for itself"
        )
    return hub


def connect_writer(location: Location) -> sqlite3.Connection:
    """A connection to write with; makes the file and turns it to WAL when it is new."""
    return _connect(location, _WRITER_PRAGMAS, make_wal=True)


def connect_reader(location: Location) -> sqlite3.Connection:
    """A connection that cannot write; its SQL has ``has_tags``."""
    connection = _connect(location, _READER_PRAGMAS, make_wal=False)
    connection.create_function("has_tags", 2, has_tags, deterministic=True)
    return connection


def _connect(location: Location, pragmas: tuple[str, ...], *, make_wal: bool) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise BackendError(f"SQLite {sqlite3.sqlite_version} is too old; durable needs 3.35 or newer")
    connection = sqlite3.connect(location.path, timeout=location.timeout, isolation_level=None, cached_statements=64)
    try:
        if make_wal:
            _turn_to_wal(connection, location)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise BackendError(f"{location.path} is not a SQLite database; name another file") from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _turn_to_wal(connection: sqlite3.Connection, location: Location) -> None:
    """Set WAL mode. SQLite answers busy at once, without its busy timeout, when two processes try at the same time."""
    deadline = time.monotonic() + location.timeout
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if translated(error) is error or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    if mode != "wal":
        raise BackendError(
            f"{location.path} cannot use a write-ahead log (mode {mode!r}): is it on a network file system? "
            "Put it on a local disk"
        )


def prepare_hub(connection: sqlite3.Connection, hub: str, partition_count: int) -> int:
    """Make the hub's tables, or bring them up to date; return its partition count. Runs in a write transaction."""
    connection.execute(f"CREATE TABLE IF NOT EXISTS {hub}_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    meta = dict(connection.execute(f"SELECT key, value FROM {hub}_meta"))
    if meta:
        partitions = _check_meta(hub, meta)
        if meta["schema"] == 1:
            _run(connection, _UPGRADE_FROM_1, hub)
        if meta["schema"] != SCHEMA_VERSION:
            _run(connection, _QUEUES, hub)
            connection.execute(f"UPDATE {hub}_meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION,))
        return partitions
    _run(connection, _TABLES, hub)
    _run(connection, _QUEUES, hub)
    entries = {"schema": SCHEMA_VERSION, "hub": hub, "partitions": partition_count}
    connection.executemany(f"INSERT INTO {hub}_meta VALUES (?, ?)", entries.items())
    rows = [(partition,) for partition in range(partition_count)]
    connection.executemany(f"INSERT INTO {hub}_partitions VALUES (?, NULL, 0)", rows)
    return partition_count


def _run(connection: sqlite3.Connection, script: str, hub: str) -> None:
    conditions = {"orchestrations": ORCHESTRATIONS, "entities": ENTITIES, "expiring": EXPIRING}
    for statement in script.format(hub=hub, **conditions).split(";"):
        connection.execute(statement)


def _check_meta(hub: str, meta: dict[str, object]) -> int:
    version, name, partitions = meta["schema"], meta["hub"], meta["partitions"]
    if version not in (1, 2, SCHEMA_VERSION):
        raise BackendError(
            f"task hub {hub!r} has tables of version {version}, this version of durable knows {SCHEMA_VERSION}; "
            "upgrade durable in this process"
        )
    if name != hub:  # SQLite's table names do not distinguish case
        raise BackendError(
            f"this file holds the task hub {name!r}; {hub!r} would share its tables; choose another name"
        )
    if not isinstance(partitions, int):
        raise BackendError(
            f"task hub {hub!r} has the partition count {partitions!r} in {hub}_meta; it must be a number"
        )
    return partitions


def list_hubs(location: Location) -> list[str]:
    """The names of the hubs in a file, none when there is no file. Raises BackendError for one that it cannot use."""
    if not os.path.exists(location.path):
        return []
    try:
        with closing(connect_reader(location)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if (unavailable := translated(error)) is not error:
            raise unavailable from error
        raise BackendError(f"{location.path} cannot be read as a SQLite database: {error}") from error
    return [name.removesuffix("_meta") for name in tables if f"{name.removesuffix('_meta')}_instances" in tables]
