"""TaskStatements: activity queues. A claim is three columns of its task, so one transaction decides.

Rule of this file: the limits are counted where they are written, in the write transaction; a claim that finds nothing
to take is answered from a read alone, as idle workers ask often.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from durable.core.codec import event_from_dict
from durable.core.errors import UnsupportedHistoryError
from durable.core.events import TaskScheduled
from durable.tasks import Claims, QueuedTask, QueueLimits, Room
from durable_sqlite._rows import Row, placeholders

_COLUMNS = "task_id, queue, name, rank, key, instance_id, execution_id, event, offered_at, number"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """The parameters of ``claim_tasks``."""

    queue: str
    limits: QueueLimits
    worker_id: str
    now: int
    ttl: int
    names: frozenset[str]
    limit: int
    holding: frozenset[str]


@dataclass(slots=True)
class _Choice:
    """What a claim may take: ids ``lost`` before and ``taken`` now, and the expiries of all unexpired claims."""

    lost: list[str]
    taken: list[str]
    room: Room
    waits: bool
    expiries: list[int]


class TaskStatements:
    """The queues of one hub; what writes is to be run in a write transaction."""

    def __init__(self, hub: str) -> None:
        tasks, mine = f"{hub}_tasks", "WHERE task_id = ? AND queue = ? AND worker_id = ?"
        self._offer = f"INSERT OR IGNORE INTO {tasks} ({_COLUMNS}, until) VALUES ({placeholders(10)}, 0)"
        self._live = (
            f"SELECT task_id, key, worker_id, until FROM {tasks} INDEXED BY {tasks}_claimed "
            "WHERE queue = ? AND until > 0 AND until > ? ORDER BY rank, task_id"
        )
        self._free = (
            f"SELECT task_id, name, key FROM {tasks} INDEXED BY {tasks}_turns "
            "WHERE queue = ? AND until <= ? ORDER BY rank, task_id"
        )
        self._whole_at = f"SELECT whole_at FROM {hub}_queues WHERE queue = ?"
        self._set_whole_at = f"INSERT OR REPLACE INTO {hub}_queues (queue, whole_at) VALUES (?, ?)"
        self._take = f"UPDATE {tasks} SET worker_id = ?, until = ?, number = number + 1 WHERE task_id = ?"
        self._read = f"SELECT {_COLUMNS} FROM {tasks} WHERE task_id = ?"
        self._renew = f"UPDATE {tasks} SET until = ? {mine} AND until > ?"
        self._release = f"UPDATE {tasks} SET worker_id = NULL, until = 0, number = number - 1 {mine}"
        self._finish = f"DELETE FROM {tasks} {mine}"
        self._withdraw = f"DELETE FROM {tasks} WHERE task_id = ? AND queue = ?"

    def offer(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """See ``offer_tasks``."""
        connection.executemany(self._offer, rows)

    def look(self, connection: sqlite3.Connection, request: ClaimRequest) -> Claims | None:
        """The answer of ``claim_tasks`` when there is nothing to claim, else None. One that only reads."""
        choice = self._choose(connection, request)
        return None if choice.lost or choice.taken else _answer(request, choice, ())

    def claim(self, connection: sqlite3.Connection, request: ClaimRequest) -> Claims:
        """See ``claim_tasks``. Raises UnsupportedHistoryError."""
        choice = self._choose(connection, request)
        until = request.now + request.ttl
        connection.executemany(self._take, [(request.worker_id, until, task_id) for task_id in choice.taken])
        if choice.taken and request.limits.interval is not None:
            connection.execute(self._set_whole_at, (request.queue, choice.room.whole_at))
        rows = [connection.execute(self._read, (task_id,)).fetchone() for task_id in (*choice.lost, *choice.taken)]
        return _answer(request, choice, tuple(map(_task_from_row, rows)))

    def renew(
        self, connection: sqlite3.Connection, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int
    ) -> set[str]:
        """See ``renew_tasks``."""
        return {
            task_id
            for task_id in task_ids
            if connection.execute(self._renew, (now + ttl, task_id, queue, worker_id, now)).rowcount
        }

    def release(self, connection: sqlite3.Connection, queue: str, worker_id: str, task_ids: Collection[str]) -> None:
        """See ``release_tasks``."""
        connection.executemany(self._release, [(task_id, queue, worker_id) for task_id in task_ids])

    def finish(self, connection: sqlite3.Connection, queue: str, worker_id: str, task_ids: Collection[str]) -> None:
        """See ``finish_tasks``."""
        connection.executemany(self._finish, [(task_id, queue, worker_id) for task_id in task_ids])

    def withdraw(self, connection: sqlite3.Connection, queue: str, task_ids: Collection[str]) -> None:
        """See ``withdraw_tasks``."""
        connection.executemany(self._withdraw, [(task_id, queue) for task_id in task_ids])

    def _choose(self, connection: sqlite3.Connection, request: ClaimRequest) -> _Choice:
        live = connection.execute(self._live, (request.queue, request.now)).fetchall()
        lost = [row[0] for row in live if row[2] == request.worker_id and row[0] not in request.holding]
        lost = lost[: request.limit]
        whole_at = connection.execute(self._whole_at, (request.queue,)).fetchone()
        keys, left = (row[1] for row in live), request.limit - len(lost)
        room = Room(request.limits, keys, 0 if whole_at is None else whole_at[0], request.now, left)
        choice = _Choice(lost, [], room, False, [row[3] for row in live])
        for task_id, name, key in connection.execute(self._free, (request.queue, request.now)):
            if name not in request.names:
                continue
            if room.take(key):
                choice.taken.append(task_id)
            else:
                choice.waits = True
                if not room.is_left:
                    break
        return choice


def task_to_row(task: QueuedTask) -> Row:
    """The row of a task that is offered."""
    place = (task.task_id, task.queue, task.name, task.rank, task.key, task.instance_id, task.execution_id)
    return (*place, orjson.dumps(task.scheduled).decode(), task.offered_at, task.number)


def _task_from_row(row: Row) -> QueuedTask:
    values: list[Any] = list(row)
    event = event_from_dict(orjson.loads(values[7]))
    if not isinstance(event, TaskScheduled):
        raise UnsupportedHistoryError(f"task {row[0]!r} holds {type(event).__name__}; it must be TaskScheduled")
    values[7] = event
    return QueuedTask(*values)


def _answer(request: ClaimRequest, choice: _Choice, tasks: tuple[QueuedTask, ...]) -> Claims:
    is_full = len(tasks) >= request.limit
    return Claims(tasks, choice.room.next_at(choice.waits, choice.expiries, is_full=is_full))
