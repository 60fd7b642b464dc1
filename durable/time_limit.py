"""One time limit for many futures.

Rule of this file: all are given the same time, so they run out in the order in which they came, and one timer of the
loop serves them all. Most are done long before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

Future: TypeAlias = asyncio.Future[Any]


class TimeLimit:
    """Fails the futures that are not done ``seconds`` after they were added."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Future, tuple[float, Callable[[], Exception]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: Future, missed: Callable[[], Exception]) -> None:
        """Begin to count; ``missed`` makes the exception of ``future``, should its time run out."""
        loop = future.get_loop()
        self._waiting[future] = loop.time() + self._seconds, missed
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def remove(self, future: Future) -> None:
        """Count no more for ``future``."""
        self._waiting.pop(future, None)

    def _look(self) -> None:
        """Fail those whose time is over, and come again for the next one, if there is one."""
        self._timer = None
        loop = asyncio.get_running_loop()
        for future, (until, missed) in list(self._waiting.items()):
            if until > loop.time():
                self._timer = loop.call_at(until, self._look)
                return
            del self._waiting[future]
            if not future.done():
                future.set_exception(missed())
