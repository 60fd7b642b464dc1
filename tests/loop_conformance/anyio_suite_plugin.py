"""A pytest plugin for a run of anyio's own tests: what they run on asyncio runs on ``VirtualLoop``."""

from __future__ import annotations

import asyncio

import pytest

from durable.testing.virtual_loop import VirtualLoop

asyncio.DefaultEventLoopPolicy._loop_factory = VirtualLoop  # type: ignore[attr-defined]
asyncio.EventLoop = VirtualLoop  # type: ignore[attr-defined]  # 3.13


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other backends of anyio's list."""
    config.hook.pytest_deselected(items=[item for item in items if not _is_on_asyncio(item)])
    items[:] = [item for item in items if _is_on_asyncio(item)]


def _is_on_asyncio(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    backend = call.params.get("anyio_backend", "asyncio") if call is not None else "asyncio"
    return backend in ("asyncio", ("asyncio", {"debug": True}))
