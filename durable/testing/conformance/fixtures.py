"""The fixtures of the conformance suite, made from the one fixture a backend author writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias

import pytest_asyncio

from durable.backend import Backend
from durable.testing.conformance.builders import PARTITIONS

BackendFactory: TypeAlias = Callable[[], Backend]


class Handles:
    """Backends on the store under test; the test may close them, the rest is closed after it."""

    def __init__(self, factory: BackendFactory, stack: AsyncExitStack) -> None:
        self._factory = factory
        self._stack = stack

    def new(self) -> Backend:
        """One more backend on the same store, not open yet."""
        backend = self._factory()
        self._stack.push_async_callback(backend.close)
        return backend

    async def open(self, partition_count: int = PARTITIONS) -> Backend:
        """One more open backend on the same store: another process, as far as the store can tell."""
        backend = self.new()
        await backend.open(partition_count)
        return backend


class ConformanceFixtures:
    """Gives a test ``backend``, ``other`` (two open backends on one store) and ``handles`` (for more of them)."""

    @pytest_asyncio.fixture
    async def handles(self, backend_factory: BackendFactory) -> AsyncIterator[Handles]:
        async with AsyncExitStack() as stack:
            yield Handles(backend_factory, stack)

    @pytest_asyncio.fixture
    async def backend(self, handles: Handles) -> Backend:
        return await handles.open()

    @pytest_asyncio.fixture
    async def other(self, handles: Handles, backend: Backend) -> Backend:
        return await handles.open()
