"""External events: buffered until somebody waits, first come first served for each name.

Names do not distinguish case, as in Durable Functions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from durable.core.events import EventRaised
from durable.core.futures import Future


class ExternalEvents:
    """The external events of one execution, and who waits for them."""

    def __init__(self) -> None:
        self._buffered: dict[str, deque[tuple[int, EventRaised]]] = {}
        self._waiters: dict[str, deque[tuple[Future, Callable[[str], Any]]]] = {}
        self._count = 0

    def deliver(self, event: EventRaised) -> None:
        """Give ``event`` to the first who waits for its name; keep it when nobody does."""
        name = event.name.casefold()
        waiters = self._waiters.get(name, deque())
        while waiters:
            future, decode = waiters.popleft()
            if not future.done():  # one that was cancelled or timed out takes nothing
                _complete(future, event, decode)
                return
        self._count += 1
        self._buffered.setdefault(name, deque()).append((self._count, event))

    def wait(self, name: str, future: Future, decode: Callable[[str], Any]) -> None:
        """Complete ``future`` with the next event of that name, which may be here already."""
        buffered = self._buffered.get(name.casefold())
        if buffered:
            _complete(future, buffered.popleft()[1], decode)
        else:
            self._waiters.setdefault(name.casefold(), deque()).append((future, decode))

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for an event."""
        return any(not future.done() for waiters in self._waiters.values() for future, _ in waiters)

    def unclaimed(self) -> tuple[EventRaised, ...]:
        """The events that nobody has waited for, in the order in which they came."""
        left = sorted((one for events in self._buffered.values() for one in events), key=lambda one: one[0])
        return tuple(event for _, event in left)

    def clear(self) -> None:
        """Let go of everybody."""
        self._buffered.clear()
        self._waiters.clear()


def _complete(future: Future, event: EventRaised, decode: Callable[[str], Any]) -> None:
    try:
        value = decode(event.input)
    except Exception as error:  # whoever waits is told that it is not what he wants
        future.set_exception(error)
    else:
        future.set_result(value)
