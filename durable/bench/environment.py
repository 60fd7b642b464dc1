"""Where figures were taken: a figure without it says nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from durable.backend_url import create_backend
from durable.bench import mongodb, sqlite
from durable.bench.stores import Store
from durable.host_loop import loop_version

_PROCESSORS = Path("/proc/cpuinfo")


def environment(store: Store) -> dict[str, Any]:
    """Versions, machine, store and durability, and how busy the machine is now."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "durable": version("durable-orchestrations"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "event loop": loop_version(),
        "system": platform.platform(terse=True),
        "machine": _machine(),
        "cpus": usable,
        "load": round(os.getloadavg()[0], 2),
        **_about(store),
    }


def _about(store: Store) -> dict[str, Any]:
    place: dict[str, Any]
    match store.kind:
        case "sqlite":
            sync = sqlite.sync_seconds(Path(store.folder))
            place = {"store": f"SQLite {sqlite3.sqlite_version}", "sync_ms": round(sync * 1e3, 3)}
        case "mongodb":
            place = {"store": f"MongoDB {mongodb.server_version(store.url)}"}
        case _:
            place = {"store": "memory"}
    backend = create_backend(store.fresh().url, store.prefix)
    return place | {"durability": getattr(backend, "durability", "none")}


def _machine() -> str:
    """The processor as the system names it."""
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{platform.machine()} {value.strip()}"
    return f"{platform.machine()} {platform.processor()}".strip()
