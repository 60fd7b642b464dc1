"""LeaseStatements: workers and the partitions they hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from durable.backend import PartitionLease, Topology, WorkerInfo
from durable_sqlite._rows import number_list, placeholders


class LeaseStatements:
    """Heartbeats and leases of one hub; what writes is to be run in a write transaction."""

    def __init__(self, hub: str) -> None:
        self._beat = f"INSERT OR REPLACE INTO {hub}_workers VALUES ({placeholders(6)})"
        self._extend = f"UPDATE {hub}_partitions SET expires_at = ? WHERE owner = ?"
        self._workers = (
            f"SELECT worker_id, host, pid, process_started, started_at FROM {hub}_workers "
            "WHERE expires_at > ? ORDER BY worker_id"
        )
        self._leases = f"SELECT partition, owner, expires_at FROM {hub}_partitions ORDER BY partition"
        self._acquire = (
            f"UPDATE {hub}_partitions SET owner = ?, expires_at = ? "
            "WHERE partition IN (SELECT value FROM json_each(?)) AND (owner IS NULL OR expires_at <= ?"
        )
        self._release = (
            f"UPDATE {hub}_partitions SET owner = NULL, expires_at = 0 "
            "WHERE owner = ? AND partition IN (SELECT value FROM json_each(?))"
        )
        self._release_all = f"UPDATE {hub}_partitions SET owner = NULL, expires_at = 0 WHERE owner = ?"
        self._forget = f"DELETE FROM {hub}_workers WHERE worker_id = ?"

    def heartbeat(self, connection: sqlite3.Connection, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        """See ``heartbeat`` of the port."""
        row = (worker.worker_id, worker.host, worker.pid, worker.process_started, worker.started_at, now + ttl)
        connection.execute(self._beat, row)
        connection.execute(self._extend, (now + ttl, worker.worker_id))
        return self.topology(connection, now)

    def topology(self, connection: sqlite3.Connection, now: int) -> Topology:
        """See ``topology`` of the port. One that only reads."""
        workers = connection.execute(self._workers, (now,)).fetchall()
        leases = connection.execute(self._leases).fetchall()
        return Topology(tuple(WorkerInfo(*row) for row in workers), tuple(PartitionLease(*row) for row in leases))

    def acquire(
        self,
        connection: sqlite3.Connection,
        worker_id: str,
        partitions: Collection[int],
        now: int,
        ttl: int,
        dead: Collection[str],
    ) -> list[int]:
        """See ``acquire_partitions`` of the port."""
        yielding = (worker_id, *dead)
        statement = f"{self._acquire} OR owner IN ({placeholders(len(yielding))})) RETURNING partition"
        parameters = (worker_id, now + ttl, number_list(partitions), now, *yielding)
        return [partition for (partition,) in connection.execute(statement, parameters).fetchall()]

    def release(self, connection: sqlite3.Connection, worker_id: str, partitions: Collection[int]) -> None:
        """See ``release_partitions`` of the port."""
        connection.execute(self._release, (worker_id, number_list(partitions)))

    def remove(self, connection: sqlite3.Connection, worker_id: str) -> None:
        """See ``remove_worker`` of the port."""
        connection.execute(self._release_all, (worker_id,))
        connection.execute(self._forget, (worker_id,))
