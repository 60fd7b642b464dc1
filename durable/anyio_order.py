"""What anyio and threads need so that an orchestrator runs the same way every time.

Rule of this file: nothing changes for code on any other event loop. Two things are patched:
anyio's cancel scopes get a hash in the order of their creation, because the set of a scope's
children is cancelled in the order of their hashes; and a thread cannot be started from code that
runs on a deterministic loop, which could neither replay it nor be woken by it. (That is what
``anyio.to_thread`` and ``anyio.open_file`` come down to: they ask the loop nothing.)

The class that is replaced is private to anyio. Where it has moved, cancel scopes keep anyio's own
order and all else works; ``tests/core/test_loop_order.py`` is there to notice.
"""

from __future__ import annotations

import functools
import threading
from asyncio import events as _events
from typing import Any

import anyio._backends._asyncio as _anyio_backend

from durable.core.loop import DeterministicLoop
from durable.core.refusals import refused

_INSTALLED = "_durable_installed"


def install() -> None:
    """Patch anyio and ``threading.Thread.start``, once; further calls do nothing."""
    scope = getattr(_anyio_backend, "CancelScope", None)
    if isinstance(scope, type) and not hasattr(scope, _INSTALLED):
        _anyio_backend.CancelScope = _ordered(scope)  # type: ignore[misc]
    if not hasattr(threading.Thread.start, _INSTALLED):
        _guard_threads()


def _ordered(scope: Any) -> Any:
    class CancelScope(scope):  # type: ignore[misc]
        __slots__ = ("_durable_seq",)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            loop = _events._get_running_loop()
            self._durable_seq = loop.next_seq() if isinstance(loop, DeterministicLoop) else object.__hash__(self)
            super().__init__(*args, **kwargs)

        def __hash__(self) -> int:
            return self._durable_seq

    setattr(CancelScope, _INSTALLED, True)
    return CancelScope


def _guard_threads() -> None:
    start_thread = threading.Thread.start

    @functools.wraps(start_thread)
    def start(self: threading.Thread) -> None:
        if isinstance(_events._get_running_loop(), DeterministicLoop):
            raise refused("threading.Thread.start()", "threads are not deterministic; call a `def` activity instead")
        start_thread(self)

    setattr(start, _INSTALLED, True)
    threading.Thread.start = start  # type: ignore[method-assign]
