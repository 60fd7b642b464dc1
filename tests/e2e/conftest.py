"""The stores that a user's program runs on."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture(params=["memory", "sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def hub_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    match request.param:
        case "memory":
            return f"memory://{uuid4().hex}"
        case "sqlite":
            return f"sqlite:///{tmp_path / 'hub.db'}"
        case _:
            url: str = request.getfixturevalue("mongodb_database_url")
            return url
