"""WakeupStatements: which instances have something to do, their messages, and the tombstones of those."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from operator import attrgetter

from durable.backend import Message, Wakeup
from durable_sqlite._rows import TERMINAL, Row, message_from_row, number_list

_SWEEP_LIMIT = 5000
_ALL = -1  # SQLite's LIMIT for none


class WakeupStatements:
    """``runnable``, ``receive`` and ``sweep`` of one hub."""

    def __init__(self, hub: str) -> None:
        self._runnable = _runnable(hub)
        # INDEXED BY: the key leads to an instance's messages too, but through all its tombstones
        self._receive = (
            f"SELECT message_id, instance_id, partition, sent_at, event, execution_id FROM {hub}_inbox "
            f"INDEXED BY {hub}_inbox_waiting WHERE consumed_at IS NULL AND instance_id = ? "
            "ORDER BY sent_at, message_id LIMIT ?"
        )
        self._sweep_inbox = (
            f"DELETE FROM {hub}_inbox WHERE (instance_id, message_id) IN "
            f"(SELECT instance_id, message_id FROM {hub}_inbox WHERE consumed_at < ? LIMIT {_SWEEP_LIMIT})"
        )
        self._sweep_workers = f"DELETE FROM {hub}_workers WHERE expires_at < ?"

    def runnable(
        self,
        connection: sqlite3.Connection,
        partitions: Collection[int],
        until: int,
        *,
        include_busy: bool,
        after: str | None,
        limit: int,
    ) -> list[Wakeup]:
        """The answer of ``runnable``."""
        parameters = {
            "partitions": number_list(partitions),
            "until": until,
            "busy": include_busy,
            "after": after or "",  # no instance id is empty
            "limit": limit,
        }
        return [Wakeup(*row) for row in connection.execute(self._runnable, parameters)]

    def receive(
        self, connection: sqlite3.Connection, instance_ids: Collection[str], limit: int | None
    ) -> list[Message]:
        """The answer of ``receive``. Raises UnsupportedHistoryError."""
        rows: list[Row] = []
        for instance_id in set(instance_ids):
            rows += connection.execute(self._receive, (instance_id, _ALL if limit is None else limit)).fetchall()
        return sorted(map(message_from_row, rows), key=attrgetter("sent_at", "message_id"))[:limit]

    def sweep(self, connection: sqlite3.Connection, before: int) -> tuple[int, bool]:
        """Delete so many old rows that others do not wait long: how many it was, and whether there may be more."""
        tombstones = connection.execute(self._sweep_inbox, (before,)).rowcount
        workers = connection.execute(self._sweep_workers, (before,)).rowcount
        return tombstones + workers, tombstones == _SWEEP_LIMIT


def _runnable(hub: str) -> str:
    """Three branches, each ordered and limited, so that a page costs what it holds; busy ones are apart from timers."""
    instances = (
        f"SELECT instance_id, due_at FROM {hub}_instances INDEXED BY {hub}_instances_due "
        f"WHERE partition IN (SELECT value FROM json_each(:partitions)) AND instance_id > :after "
        f"AND status NOT IN ({TERMINAL}) AND"
    )
    page = "ORDER BY 1 LIMIT :limit"
    busy = f"{instances} due_at = 0 AND :busy AND :until >= 0 {page}"
    timers = f"{instances} due_at <= :until AND due_at != 0 AND due_at IS NOT NULL {page}"
    messages = (
        f"SELECT DISTINCT instance_id, 0 AS due_at FROM {hub}_inbox INDEXED BY {hub}_inbox_waiting "
        "WHERE consumed_at IS NULL AND instance_id > :after "
        f"AND partition IN (SELECT value FROM json_each(:partitions)) {page}"
    )
    branches = " UNION ALL ".join(f"SELECT * FROM ({branch})" for branch in (busy, timers, messages))
    return f"SELECT instance_id, min(due_at) FROM ({branches}) GROUP BY instance_id {page}"
