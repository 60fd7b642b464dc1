"""The stores to measure on: fresh databases, and a count of the commands that a MongoDB client sends."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from durable.backend import Backend
from durable.backend_url import create_backend

_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})


class Store:
    """A place for fresh databases of one kind."""

    def __init__(self, url: str | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="durable-bench-")
        self._url = url or "sqlite"
        self.name = self._url.partition(":")[0]
        self._listener = _count_commands() if self.name == "mongodb" else None

    def fresh_url(self) -> str:
        """The URL of an empty store."""
        match self.name:
            case "memory":
                return f"memory://{uuid4().hex}"
            case "sqlite":
                return f"sqlite:///{Path(self._folder.name) / uuid4().hex}.db"
            case _:
                parts = urlsplit(self._url)
                return urlunsplit(parts._replace(path=f"/bench_{uuid4().hex[:12]}"))

    def backend(self, url: str) -> Backend:
        """A backend on ``url``, not open."""
        return create_backend(url, "default")

    def reset_commands(self) -> None:
        """Count write commands from here on."""
        if self._listener is not None:
            self._listener.count = 0

    def commands(self) -> float:
        """Write commands sent to a MongoDB server since then; 0 for other stores."""
        return 0.0 if self._listener is None else float(self._listener.count)


def _count_commands() -> Any:
    from pymongo import monitoring

    class Listener(monitoring.CommandListener):
        count = 0

        def started(self, event: monitoring.CommandStartedEvent) -> None:
            if event.command_name in _WRITES and not event.database_name.startswith("admin"):
                self.count += 1

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

        def failed(self, event: monitoring.CommandFailedEvent) -> None: ...

    listener = Listener()
    monitoring.register(listener)
    return listener
