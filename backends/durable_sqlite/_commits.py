"""CommitStatements: checkpoints with what follows from them, new records, and messages.

Rule of this file: the hot path. Rows are made in the caller's thread, the writer only binds them. A batch is written by
a few ``executemany``; only when one of them wrote fewer rows than it was given is it asked which commit lost, and the
rows of the others are made again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from durable.backend import Commit, CommitOutcome, InstanceRecord
from durable.core.ids import same_start
from durable_sqlite._rows import (
    CHANGING_COLUMNS,
    INDEXED_COLUMNS,
    RECORD_COLUMNS,
    Row,
    checkpoint_to_row,
    message_to_row,
    parameter,
    placeholders,
    record_from_row,
    record_to_change,
    record_to_row,
)

_SAME_START = "instr(? || '.', substr(execution_id || '.', 1, instr(execution_id || '.', '.'))) = 1"
"""SQL for whether an execution goes back to the same start as a record's: ``durable.core.ids.same_start``."""


@dataclass(slots=True)
class BatchRows:
    """A batch of commits as the rows that it writes. ``busy`` and ``others`` are for ``_change_records``."""

    commits: Sequence[Commit]
    creates: list[Row] = field(default_factory=list)
    checkpoints: list[Row] = field(default_factory=list)
    starts: list[Row] = field(default_factory=list)
    messages: list[Row] = field(default_factory=list)
    drops: list[Row] = field(default_factory=list)
    busy: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    consumed: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, commits: Sequence[Commit]) -> BatchRows:
        """Encode ``commits``."""
        rows = cls(commits)
        for commit in commits:
            record = commit.record
            rows.checkpoints.append(checkpoint_to_row(commit.checkpoint))
            if commit.create:
                rows.creates.append(record_to_row(record))
            else:
                (rows.busy if record.due_at == 0 else rows.others).append(record_to_change(record))
            if commit.starts:
                rows.starts += [record_to_row(start.record) for start in commit.starts]
            if commit.messages:
                rows.messages += [message_to_row(message) for message in commit.messages]
            if commit.drops:
                rows.drops += [(record.instance_id, execution_id) for execution_id in commit.drops]
            if commit.consumed:
                rows.consumed += [(record.updated_at, record.instance_id, id_) for id_ in commit.consumed]
        return rows


class CommitStatements:
    """``create_instances``, ``commit``, ``send`` and ``consume`` of one hub, each to be run in a write transaction."""

    def __init__(self, hub: str) -> None:
        columns = ", ".join(RECORD_COLUMNS)
        self._create = (
            f"INSERT INTO {hub}_instances ({columns}) VALUES ({', '.join(map(parameter, RECORD_COLUMNS))}) "
            "ON CONFLICT (instance_id) DO NOTHING"
        )
        self._find = f"SELECT {columns} FROM {hub}_instances WHERE instance_id = ?"
        # rev: a checkpoint that is older than the record and not there is of an execution that was dropped; of another
        # start is one whose instance was purged, and its id used again
        self._checkpoint = (
            f"INSERT INTO {hub}_history (instance, execution_id, seq, rev, token, recoveries, format, events) "
            f"SELECT id, {placeholders(7)} FROM {hub}_instances WHERE instance_id = ? AND rev <= ? "
            f"AND (execution_id = ? OR {_SAME_START}) ON CONFLICT DO NOTHING"
        )
        self._token = (
            f"SELECT token FROM {hub}_history JOIN {hub}_instances ON id = instance "
            f"WHERE instance_id = ? AND {hub}_history.execution_id = ? AND seq = ?"
        )
        self._taken_by = (
            f"SELECT execution_id, EXISTS (SELECT 1 FROM {hub}_history "
            f"WHERE instance = {hub}_instances.id AND {hub}_history.execution_id = ? AND seq = ?) "
            f"FROM {hub}_instances WHERE instance_id = ?"
        )
        self._change, self._change_unindexed = _changes(hub)
        self._message = (
            f"INSERT INTO {hub}_inbox (instance_id, message_id, partition, sent_at, execution_id, event) "
            f"VALUES ({placeholders(6)}) ON CONFLICT DO NOTHING"
        )
        self._drop = (
            f"DELETE FROM {hub}_history WHERE instance = (SELECT id FROM {hub}_instances WHERE instance_id = ?) "
            "AND execution_id = ?"
        )
        self._consume = (
            f"UPDATE {hub}_inbox SET consumed_at = ?, event = NULL "
            "WHERE instance_id = ? AND message_id = ? AND consumed_at IS NULL"
        )

    def create(
        self, connection: sqlite3.Connection, records: Sequence[InstanceRecord], rows: Sequence[Row]
    ) -> list[InstanceRecord | None]:
        """Insert records; the answer of ``create_instances``."""
        if connection.executemany(self._create, rows).rowcount == len(rows):
            return [None] * len(rows)
        stored = [self._stored(connection, record.instance_id) for record in records]
        return [
            None if same_start(there.execution_id, record.execution_id) else there
            for record, there in zip(records, stored, strict=True)
        ]

    def send(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert messages whose id is new."""
        connection.executemany(self._message, rows)

    def consume(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Mark messages, given as ``at, instance_id, message_id``, as tombstones."""
        connection.executemany(self._consume, rows)

    def commit(self, connection: sqlite3.Connection, batch: BatchRows) -> list[CommitOutcome]:
        """Write a batch and what follows from it; the answer of ``commit``."""
        outcomes = [CommitOutcome.COMMITTED] * len(batch.commits)
        creates = batch.creates
        all_new = not creates or connection.executemany(self._create, creates).rowcount == len(creates)
        standing = batch
        if not all_new:
            standing = self._mark_taken(connection, batch.commits, outcomes)
        checkpoints = standing.checkpoints
        if connection.executemany(self._checkpoint, checkpoints).rowcount != len(checkpoints):
            standing = self._mark_conflicts(connection, batch.commits, outcomes)
        self._follow(connection, standing, all_new=all_new)
        return outcomes

    def _mark_taken(
        self, connection: sqlite3.Connection, commits: Sequence[Commit], outcomes: list[CommitOutcome]
    ) -> BatchRows:
        """Mark the creating commits whose instance id belongs to another start; the others are returned."""
        for index, commit in enumerate(commits):
            if not commit.create:
                continue
            point = commit.checkpoint
            key = (point.execution_id, point.seq, point.instance_id)
            execution_id, is_there = connection.execute(self._taken_by, key).fetchone()
            # A checkpoint that is there already: a repeated commit, or a conflict.
            if not is_there and not same_start(execution_id, commit.record.execution_id):
                outcomes[index] = CommitOutcome.EXISTS
        return _standing(commits, outcomes)

    def _mark_conflicts(
        self, connection: sqlite3.Connection, commits: Sequence[Commit], outcomes: list[CommitOutcome]
    ) -> BatchRows:
        """Mark those whose checkpoint another writer holds, or whose execution is gone; the others are returned."""
        for index, commit in enumerate(commits):
            if outcomes[index] is not CommitOutcome.COMMITTED:
                continue
            if self._stored_token(connection, commit) != commit.checkpoint.token:
                outcomes[index] = CommitOutcome.CONFLICT
        return _standing(commits, outcomes)

    def _stored(self, connection: sqlite3.Connection, instance_id: str) -> InstanceRecord:
        return record_from_row(connection.execute(self._find, (instance_id,)).fetchone())

    def _stored_token(self, connection: sqlite3.Connection, commit: Commit) -> str | None:
        checkpoint = commit.checkpoint
        key = (checkpoint.instance_id, checkpoint.execution_id, checkpoint.seq)
        stored = connection.execute(self._token, key).fetchone()
        return None if stored is None else str(stored[0])

    def _follow(self, connection: sqlite3.Connection, committed: BatchRows, *, all_new: bool) -> None:
        """What ``settle`` does in other backends. A record that was inserted just now is up to date."""
        messages = committed.messages
        if committed.starts:
            messages = self._start(connection, committed) + messages
        if messages:
            connection.executemany(self._message, messages)
        if committed.drops:
            connection.executemany(self._drop, committed.drops)
        self._change_records(connection, committed)
        if not all_new and (known := [record_to_change(one.record) for one in committed.commits if one.create]):
            connection.executemany(self._change, known)  # a creation that was done before: written again
        if committed.consumed:
            connection.executemany(self._consume, committed.consumed)

    def _change_records(self, connection: sqlite3.Connection, committed: BatchRows) -> None:
        """Update records. What has something to do at once most likely had so before: then no index is touched."""
        busy, others = committed.busy, committed.others
        if busy and connection.executemany(self._change_unindexed, busy).rowcount < len(busy):
            others = others + busy  # those that are done are not older than their change any more
        if others:
            connection.executemany(self._change, others)

    def _start(self, connection: sqlite3.Connection, committed: BatchRows) -> list[Row]:
        """Create what is started; returned are the messages to send where an id is taken."""
        starts = [start for commit in committed.commits for start in commit.starts]
        taken = self.create(connection, [start.record for start in starts], committed.starts)
        return [
            message_to_row(start.otherwise)
            for start, stranger in zip(starts, taken, strict=True)
            if stranger is not None and start.otherwise is not None
        ]


def _changes(hub: str) -> tuple[str, str]:
    """SQL that updates a record, and SQL that does so if its indexed columns stay as they are, of equal parameters."""
    plain = ", ".join(f"{name} = {parameter(name)}" for name in CHANGING_COLUMNS)
    indexed = [(name, parameter(name)) for name in INDEXED_COLUMNS]
    where = "instance_id = ? AND rev < ?"
    setting = ", ".join(f"{name} = {value}" for name, value in indexed)
    same = " AND ".join(f"{name} IS {value}" for name, value in indexed)
    return (
        f"UPDATE {hub}_instances SET {plain}, {setting} WHERE {where}",
        f"UPDATE {hub}_instances SET {plain} WHERE {same} AND {where}",
    )


def _standing(commits: Sequence[Commit], outcomes: Sequence[CommitOutcome]) -> BatchRows:
    pairs = zip(commits, outcomes, strict=True)
    return BatchRows.of([commit for commit, outcome in pairs if outcome is CommitOutcome.COMMITTED])
