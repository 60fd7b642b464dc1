"""SQLite backend of durable: one file, several processes, no server.

``SqliteBackend.from_url("sqlite:///orders.db", "orders")`` makes one; it implements :class:`durable.backend.Backend`.
"""

from durable_sqlite._backend import SqliteBackend as SqliteBackend

__all__ = ["SqliteBackend"]
