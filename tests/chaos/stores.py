"""Stored instances as the database has them: read with its own client, not with a backend."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient

from durable.core.codec import event_to_dict
from durable.testing.memory_store import MemoryStore
from tests.chaos.checker import StoredCheckpoint, StoredInstance
from tests.chaos.messaging_judge import ENDED

_RECORD = ("instance_id", "execution_id", "status", "rev", "due_at", "output", "failure", "problem")


def read_store(url: str) -> list[StoredInstance]:
    """All instances of the hub ``default`` in the SQLite file or MongoDB database that ``url`` names."""
    return _read_sqlite(sqlite_path(url)) if url.startswith("sqlite:") else _read_mongodb(url)


def sqlite_path(url: str) -> str:
    """The path of the SQLite file that ``url`` names."""
    return urlsplit(url).path[1:]


@dataclass(frozen=True)
class Progress:
    """How far a hub is: the sum of all revisions, and who has something to do, or a message waiting."""

    revisions: int
    busy: frozenset[str]


def read_progress(url: str) -> Progress:
    """How far the hub is: cheap enough to be asked again and again."""
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(f"file:{sqlite_path(url)}?mode=ro", uri=True)) as connection:
            records = connection.execute("SELECT instance_id, status, rev, due_at FROM default_instances").fetchall()
            waiting = connection.execute("SELECT instance_id FROM default_inbox WHERE consumed_at IS NULL").fetchall()
        return _progress(records, (receiver for (receiver,) in waiting))
    with MongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database()
        found = database["default.instances"].find({}, {"status": 1, "rev": 1, "due_at": 1})
        records = [(one["_id"], one["status"], int(one["rev"]), one.get("due_at")) for one in found]
        messages = database["default.inbox"].find({"consumed_at": 0}, {"instance_id": 1})
        return _progress(records, (message["instance_id"] for message in messages))


def _progress(records: Iterable[tuple[str, str, int, int | None]], receivers: Iterable[str]) -> Progress:
    busy, revisions = set(receivers), 0
    for instance_id, status, rev, due_at in records:
        revisions += rev
        has_ended = due_at is None if instance_id.startswith("@") else status in ENDED  # an entity never ends
        if not has_ended:
            busy.add(instance_id)
    return Progress(revisions, frozenset(busy))


def _read_sqlite(path: str) -> list[StoredInstance]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        numbers = dict(connection.execute("SELECT id, instance_id FROM default_instances"))
        checkpoints: dict[str, list[StoredCheckpoint]] = {}
        columns = "instance, execution_id, seq, rev, recoveries, events"
        for number, execution_id, seq, rev, recoveries, events in connection.execute(
            f"SELECT {columns} FROM default_history"
        ):
            checkpoint = StoredCheckpoint(execution_id, seq, rev, recoveries, json.loads(events))
            checkpoints.setdefault(numbers.get(number, f"<no record {number}>"), []).append(checkpoint)
        records = connection.execute(f"SELECT {', '.join(_RECORD)} FROM default_instances").fetchall()
    _refuse_orphans(checkpoints, (record[0] for record in records))
    return [_from_row(record, checkpoints.get(record[0], [])) for record in records]


def _from_row(record: tuple[Any, ...], checkpoints: list[StoredCheckpoint]) -> StoredInstance:
    values: dict[str, Any] = dict(zip(_RECORD, record, strict=True))
    return StoredInstance(**values, checkpoints=checkpoints)


def _read_mongodb(url: str) -> list[StoredInstance]:
    with MongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database()
        checkpoints: dict[str, list[StoredCheckpoint]] = {}
        for found in database["default.history"].find({"seq": {"$exists": True}}):
            checkpoint = StoredCheckpoint(
                found["execution_id"], found["seq"], found["rev"], found["recoveries"], found["events"]
            )
            checkpoints.setdefault(found["instance_id"], []).append(checkpoint)
        records = list(database["default.instances"].find())
    instances = [_from_document(record, checkpoints.get(record["_id"], [])) for record in records]
    _refuse_orphans(checkpoints, (instance.instance_id for instance in instances))
    return instances


def _from_document(record: Mapping[str, Any], checkpoints: list[StoredCheckpoint]) -> StoredInstance:
    failure = record.get("failure")
    return StoredInstance(
        record["_id"],
        record["execution_id"],
        record["status"],
        record["rev"],
        record.get("due_at"),
        record.get("output"),
        None if failure is None else json.dumps(failure, default=str),
        record.get("problem"),
        checkpoints,
    )


def read_memory(store: MemoryStore) -> list[StoredInstance]:
    """All instances of a memory store."""
    _refuse_orphans(store.history, store.records)
    return [
        StoredInstance(
            record.instance_id,
            record.execution_id,
            record.status.value,
            record.rev,
            record.due_at,
            record.output,
            None if record.failure is None else repr(record.failure),
            record.problem,
            [
                StoredCheckpoint(c.execution_id, c.seq, c.rev, c.recoveries, [event_to_dict(e) for e in c.events])
                for c in store.history.get(record.instance_id, {}).values()
            ],
        )
        for record in store.records.values()
    ]


def _refuse_orphans(checkpoints: Iterable[str], records: Iterable[str]) -> None:
    orphans = set(checkpoints) - set(records)
    if orphans:
        raise AssertionError(f"history without a record: {sorted(orphans)}")
