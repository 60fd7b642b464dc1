"""Patience with the store: what is idempotent is repeated until the store answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from durable.backend import BackendUnavailable

T = TypeVar("T")

_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0
_log = logging.getLogger("durable.worker")


class Patience:
    """Repeats operations through lost connections, and knows whether the store answers (``available``)."""

    def __init__(self) -> None:
        self.available = True

    async def insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of ``operation``, an idempotent one, however often it takes."""
        delay = _FIRST_RETRY
        while True:
            try:
                result = await operation()
            except BackendUnavailable as error:
                if self.available:
                    _log.warning("the store is not available, retrying until it is: %s", error)
                self.available = False
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY)
            else:
                if not self.available:
                    _log.info("the store is available again")
                    self.available = True
                return result
