"""Two servers, which are two origins, and a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from durable.httpcall.activity import HttpCaller
from tests.http.server import LoopbackServer


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is asked directly, whatever proxy the environment names."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer().running() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[LoopbackServer]:
    """Another origin than ``server``."""
    async with LoopbackServer().running() as running:
        yield running


async def key() -> str:
    return "key-1"


async def token(resource: str | None = None) -> str:
    return f"token-for-{resource or 'anyone'}"


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    """Knows the secret ``key`` and the token source ``token``."""
    made = HttpCaller({"key": key, "token": token}, timeout=20)
    yield made
    await made.close()
