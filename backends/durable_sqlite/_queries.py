"""QueryStatements: lists and counts of records, and which of them have expired.

Rule of this file: it walks an index in the order of the page and looks at each row; no index is kept for what changes
each turn. So a page costs the rows that are passed over, too: fewest with bounds of ``created_at``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from durable.backend import Page, Query
from durable.backend_queries import Grouping, check_grouping, continuation_of, position_of
from durable_sqlite._rows import (
    ENTITIES,
    EXPIRING,
    ORCHESTRATIONS,
    RECORD_COLUMNS,
    TERMINAL,
    mapping_text,
    placeholders,
    record_from_row,
)


class QueryStatements:
    """``query``, ``count`` and ``expired`` of one hub."""

    def __init__(self, hub: str) -> None:
        self._select = f"SELECT {', '.join(RECORD_COLUMNS)} FROM {hub}_instances"
        self._count = f"SELECT {{by}}, count(*) FROM {hub}_instances WHERE {{where}} GROUP BY 1"
        self._expired = (
            f"SELECT instance_id FROM {hub}_instances "
            f"WHERE {EXPIRING} AND purge_at <= ? AND status IN ({TERMINAL}) ORDER BY purge_at, instance_id LIMIT ?"
        )

    def query(self, connection: sqlite3.Connection, query: Query) -> Page:
        """The answer of ``query``. Raises ValueError for a ``continuation`` that no page gave."""
        conditions, values = _conditions(query)
        direction, beyond = ("ASC", ">") if query.oldest_first else ("DESC", "<")
        if (after := position_of(query)) is not None:
            conditions.append(f"(created_at, instance_id) {beyond} (?, ?)")
            values += after
        order = f"ORDER BY created_at {direction}, instance_id {direction} LIMIT ?"
        statement = f"{self._select} WHERE {' AND '.join(conditions)} {order}"
        rows = connection.execute(statement, (*values, query.page_size + 1)).fetchall()
        page = tuple(record_from_row(row) for row in rows[: query.page_size])
        if len(rows) == len(page):
            return Page(page, None)
        return Page(page, continuation_of(query, page[-1].created_at, page[-1].instance_id))

    def count(self, connection: sqlite3.Connection, query: Query, by: Grouping) -> dict[str, int]:
        """The answer of ``count``."""
        conditions, values = _conditions(query)
        statement = self._count.format(by=check_grouping(by), where=" AND ".join(conditions))
        return dict(connection.execute(statement, values).fetchall())

    def expired(self, connection: sqlite3.Connection, before: int, limit: int) -> Sequence[str]:
        """The answer of ``expired``."""
        return [row[0] for row in connection.execute(self._expired, (before, limit)).fetchall()]


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
        ("updated_at >= ?", query.updated_from),
        ("updated_at <= ?", query.updated_to),
        ("custom_status = ?", query.custom_status),
        ("has_tags(tags, ?)", mapping_text(query.tags or None)),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return conditions, values
