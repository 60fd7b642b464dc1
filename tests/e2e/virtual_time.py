"""A hub in virtual time: an hour passes as soon as nobody has anything to do. In memory only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

from durable import Settings, TaskHub
from durable.backend import Backend
from durable.testing.virtual_loop import VirtualLoop

T = TypeVar("T")

_EPOCH = 1_700_000_000_000_000


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` on a loop in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def virtual_hub(backend: Backend, **settings: Any) -> TaskHub:
    """A hub whose clock is the running virtual loop's."""
    loop = asyncio.get_running_loop()
    # The watchdog is a thread, which a loop in virtual time cannot have.
    return TaskHub(
        backend, settings=Settings(blocked_turn=inf, **settings), clock=lambda: _EPOCH + round(loop.time() * 1_000_000)
    )
