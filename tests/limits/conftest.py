"""The stores on which each limit is tried: one that settles with the commit, and one that settles after it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture(params=["memory", "sqlite"])
def hub_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    return f"memory://{uuid4().hex}" if request.param == "memory" else f"sqlite:///{tmp_path / 'hub.db'}"
