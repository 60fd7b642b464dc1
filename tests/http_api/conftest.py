"""A hub with a worker, and a client of its HTTP API in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from durable import TaskHub
from tests.http_api.service import client_of, make_hub


@pytest.fixture(params=["memory", "sqlite"])
def hub_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    return f"memory://{uuid4().hex}" if request.param == "memory" else f"sqlite:///{tmp_path / 'hub.db'}"


@pytest.fixture
async def hub(hub_url: str) -> AsyncIterator[TaskHub]:
    """A hub that runs a worker."""
    hub = make_hub(hub_url)
    async with hub.worker():
        yield hub


@pytest.fixture
async def client(hub: TaskHub) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the hub's API, as it is without any option."""
    async with client_of(hub.http_app()) as client:
        yield client
