"""InstanceStatements: reading records and history, annotating and purging them, and their large payloads."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from durable.backend import Annotation, Checkpoint, InstanceRecord, Page, Query
from durable_sqlite._rows import (
    ENTITIES,
    ORCHESTRATIONS,
    RECORD_COLUMNS,
    TERMINAL,
    checkpoint_from_row,
    mapping_text,
    placeholders,
    record_from_row,
)

_INSTANCE_ID, _CREATED_AT = (RECORD_COLUMNS.index(name) for name in ("instance_id", "created_at"))


class InstanceStatements:
    """What a hub's backend asks about instances."""

    def __init__(self, hub: str) -> None:
        columns = ", ".join(RECORD_COLUMNS)
        self._select = f"SELECT {columns} FROM {hub}_instances"
        self._get = f"{self._select} WHERE instance_id = ?"
        self._load = (
            "SELECT seq, rev, token, recoveries, format, events "
            f"FROM {hub}_history WHERE instance = (SELECT id FROM {hub}_instances WHERE instance_id = ?) "
            "AND execution_id = ? AND seq >= ? ORDER BY seq LIMIT ?"
        )
        self._annotate = (
            f"UPDATE {hub}_instances SET problem = ?, recoveries = ?, heartbeats = ? WHERE instance_id = ? AND rev = ?"
        )
        self._terminal = f"SELECT instance_id, id FROM {hub}_instances WHERE instance_id = ? AND status IN ({TERMINAL})"
        self._purge = tuple(
            f"DELETE FROM {hub}_{table} WHERE {column} = ?"
            for table, column in (
                ("history", "instance"),
                ("inbox", "instance_id"),
                ("payloads", "instance_id"),
                ("instances", "id"),
            )
        )
        self._put_payload = f"INSERT INTO {hub}_payloads VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        self._get_payload = f"SELECT value FROM {hub}_payloads WHERE instance_id = ? AND key = ?"

    def load(
        self, connection: sqlite3.Connection, instance_id: str, execution_id: str, from_seq: int, limit: int
    ) -> list[Checkpoint]:
        """The answer of ``load``: ends where a number is missing. Raises UnsupportedHistoryError."""
        # all rows at once: a statement that an error leaves open would keep later reads on its snapshot
        rows = connection.execute(self._load, (instance_id, execution_id, from_seq, limit)).fetchall()
        checkpoints: list[Checkpoint] = []
        for row in rows:
            if row[0] != from_seq + len(checkpoints):
                break
            checkpoints.append(checkpoint_from_row(instance_id, execution_id, row))
        return checkpoints

    def get(self, connection: sqlite3.Connection, instance_ids: Sequence[str]) -> list[InstanceRecord | None]:
        """The answer of ``get``."""
        rows = [connection.execute(self._get, (instance_id,)).fetchone() for instance_id in instance_ids]
        return [None if row is None else record_from_row(row) for row in rows]

    def query(self, connection: sqlite3.Connection, query: Query) -> Page:
        """The answer of ``query``. Raises ValueError for a ``continuation`` that no page gave."""
        conditions, values = _conditions(query)
        where = f" WHERE {' AND '.join(conditions)}"
        order = " ORDER BY created_at DESC, instance_id DESC LIMIT ?"
        rows = connection.execute(self._select + where + order, (*values, query.page_size + 1)).fetchall()
        page = rows[: query.page_size]
        more = len(rows) > len(page)
        return Page(tuple(record_from_row(row) for row in page), _continuation(page[-1]) if more else None)

    def annotate(self, connection: sqlite3.Connection, annotations: Sequence[Annotation]) -> None:
        """See ``annotate`` of the port."""
        rows = [
            (note.problem, note.recoveries, mapping_text(note.heartbeats), note.instance_id, note.rev)
            for note in annotations
        ]
        connection.executemany(self._annotate, rows)

    def purge(self, connection: sqlite3.Connection, instance_ids: Collection[str]) -> int:
        """See ``purge`` of the port; all of it in one transaction."""
        found = (connection.execute(self._terminal, (instance_id,)).fetchone() for instance_id in set(instance_ids))
        terminal = [row for row in found if row is not None]
        names, numbers = [(row[0],) for row in terminal], [(row[1],) for row in terminal]
        for statement, keys in zip(self._purge, (numbers, names, names, numbers), strict=True):
            connection.executemany(statement, keys)
        return len(terminal)

    def put_payloads(self, connection: sqlite3.Connection, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See ``put_payloads`` of the port."""
        connection.executemany(self._put_payload, [(instance_id, key, value) for key, value in payloads.items()])

    def get_payloads(self, connection: sqlite3.Connection, instance_id: str, keys: Collection[str]) -> dict[str, bytes]:
        """The answer of ``get_payloads``."""
        rows = {key: connection.execute(self._get_payload, (instance_id, key)).fetchone() for key in keys}
        return {key: row[0] for key, row in rows.items() if row is not None}


def _conditions(query: Query) -> tuple[list[str], list[Any]]:
    conditions = [ENTITIES if query.entities else ORCHESTRATIONS]
    values: list[Any] = []
    if query.status:
        conditions.append(f"status IN ({placeholders(len(query.status))})")
        values += [str(status.value) for status in query.status]
    if query.id_prefix:
        conditions.append("substr(instance_id, 1, ?) = ?")
        values += [len(query.id_prefix), query.id_prefix]
    for condition, value in (
        ("name = ?", query.name),
        ("created_at >= ?", query.created_from),
        ("created_at <= ?", query.created_to),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if query.continuation is not None:
        conditions.append("(created_at, instance_id) < (?, ?)")
        values += _position(query.continuation)
    return conditions, values


def _continuation(last: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([last[_CREATED_AT], last[_INSTANCE_ID]])).decode()


def _position(continuation: str) -> tuple[int, str]:
    try:
        created_at, instance_id = orjson.loads(base64.urlsafe_b64decode(continuation))
        return int(created_at), str(instance_id)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"continuation {continuation[:40]!r} is not one that a page gave") from error
