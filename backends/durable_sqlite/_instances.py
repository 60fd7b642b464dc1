"""InstanceStatements: reading records and history, annotating, holding and purging them, and their large payloads."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from durable.backend import Annotation, Checkpoint, InstanceRecord
from durable_sqlite._rows import (
    RECORD_COLUMNS,
    TERMINAL,
    checkpoint_from_row,
    mapping_text,
    record_from_row,
)


class InstanceStatements:
    """What a hub's backend asks about instances."""

    def __init__(self, hub: str) -> None:
        columns = ", ".join(RECORD_COLUMNS)
        self._get = f"SELECT {columns} FROM {hub}_instances WHERE instance_id = ?"
        self._load = (
            "SELECT seq, rev, token, recoveries, format, events "
            f"FROM {hub}_history WHERE instance = (SELECT id FROM {hub}_instances WHERE instance_id = ?) "
            "AND execution_id = ? AND seq >= ? ORDER BY seq LIMIT ?"
        )
        self._annotate = (
            f"UPDATE {hub}_instances SET problem = ?, recoveries = ?, heartbeats = ? WHERE instance_id = ? AND rev = ?"
        )
        self._purgeable = (
            f"SELECT instance_id, id FROM {hub}_instances "
            f"WHERE instance_id = ? AND status IN ({TERMINAL}) AND hold IS NULL"
        )
        self._hold = f"UPDATE {hub}_instances SET hold = ? WHERE instance_id = ?"
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

    def annotate(self, connection: sqlite3.Connection, annotations: Sequence[Annotation]) -> None:
        """See ``annotate`` of the port."""
        rows = [
            (note.problem, note.recoveries, mapping_text(note.heartbeats), note.instance_id, note.rev)
            for note in annotations
        ]
        connection.executemany(self._annotate, rows)

    def purge(self, connection: sqlite3.Connection, instance_ids: Collection[str]) -> int:
        """See ``purge`` of the port; all of it in one transaction."""
        found = (connection.execute(self._purgeable, (instance_id,)).fetchone() for instance_id in set(instance_ids))
        going = [row for row in found if row is not None]
        names, numbers = [(row[0],) for row in going], [(row[1],) for row in going]
        for statement, keys in zip(self._purge, (numbers, names, names, numbers), strict=True):
            connection.executemany(statement, keys)
        return len(going)

    def set_hold(self, connection: sqlite3.Connection, instance_id: str, reason: str | None) -> bool:
        """See ``set_hold`` of the port."""
        return connection.execute(self._hold, (reason, instance_id)).rowcount == 1

    def put_payloads(self, connection: sqlite3.Connection, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See ``put_payloads`` of the port."""
        connection.executemany(self._put_payload, [(instance_id, key, value) for key, value in payloads.items()])

    def get_payloads(self, connection: sqlite3.Connection, instance_id: str, keys: Collection[str]) -> dict[str, bytes]:
        """The answer of ``get_payloads``."""
        rows = {key: connection.execute(self._get_payload, (instance_id, key)).fetchone() for key in keys}
        return {key: row[0] for key, row in rows.items() if row is not None}
