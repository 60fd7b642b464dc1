"""The backends that the conformance tests run on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from durable.backend import Backend
from durable.backend_url import create_backend
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore

BACKENDS = [
    "memory",
    "memory-settled",
    "sqlite",
    pytest.param("mongodb", marks=pytest.mark.mongodb),
]


@pytest.fixture(params=BACKENDS)
def backend_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Backend]:
    """Makes new backends, not open, on one empty store."""
    store = MemoryStore()
    match request.param:
        case "memory":
            return lambda: MemoryBackend(store)
        case "memory-settled":
            return lambda: MemoryBackend(store, settles_on_commit=True)
        case "sqlite":
            return partial(create_backend, f"sqlite:///{tmp_path / 'hub.db'}", "Hub")
        case _:
            return partial(create_backend, request.getfixturevalue("mongodb_database_url"), "Hub")
