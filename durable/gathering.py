"""Gathering: calls for one thing each become one call for all of them.

Rule of this file: what is asked for in one pass of the event loop, or while a call is under way, goes together in the
next. So a service that is told many things at once asks the store as often as it answers, not once for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from durable.backend import BackendUnavailable

T = TypeVar("T")
R = TypeVar("R")

_MOST = 500


class Gathering(Generic[T, R]):
    """Calls ``operation``, which takes many and answers each, for those who ask for one.

    An error is everybody's when the store did not answer. Any other one may be the fault of one of them: then each is
    asked for alone, so the operation has to be idempotent. What was asked for by someone who was cancelled may be done.
    """

    def __init__(self, operation: Callable[[Sequence[T]], Awaitable[Sequence[R]]]) -> None:
        self._operation = operation
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def __call__(self, item: T) -> asyncio.Future[R]:
        """The answer for ``item``. Raises what the operation raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = loop.create_task(self._run(), name="durable-gathering")
        return future

    async def _run(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                batch = [(item, future) for item, future in batch if not future.done()]
                await self._ask(batch)
        finally:
            self._task = None
            for _, future in (*batch, *self._waiting):  # none, unless the loop itself is ending
                future.cancel()

    async def _ask(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        if not batch:
            return
        try:
            answers = await self._operation([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, BackendUnavailable):
                for one in batch:
                    await self._ask([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in answered:
            if not future.done():
                future.set_result(answer)
