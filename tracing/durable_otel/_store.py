"""A store that tells how long each of its operations took.

Rule of this file: it is the same store to all who use it. What it offers beyond the port, it offers still.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, TypeAlias, cast

from durable.backend import Backend, BackendUnavailable
from durable.tasks import QueueBackend

Asked: TypeAlias = Callable[[str, str, str, float], None]
"""Hears of the backend's name, the operation, its outcome and the seconds."""

_OPERATIONS = [
    name for port in (Backend, QueueBackend) for name, member in vars(port).items() if iscoroutinefunction(member)
]


def timed(backend: Backend, asked: Asked) -> Backend:
    """``backend``, whose operations are told to ``asked``."""
    return cast(Backend, _Timed(backend, asked))


class _Timed:
    """Looks like the store: an attribute for each of its operations, all others are the store's own."""

    def __init__(self, backend: Backend, asked: Asked) -> None:
        self._backend = backend
        name = type(backend).__name__.removesuffix("Backend").lower()
        for operation in _OPERATIONS:
            method = getattr(backend, operation, None)
            if method is not None:
                setattr(self, operation, _clocked(name, operation, method, asked))
        for beyond in ("join", "in_transaction"):  # the user's time is in these, not only the store's
            if hasattr(backend, beyond):
                setattr(self, beyond, getattr(backend, beyond))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _clocked(
    backend: str, operation: str, method: Callable[..., Awaitable[Any]], asked: Asked
) -> Callable[..., Awaitable[Any]]:
    async def clocked(*args: Any, **kwargs: Any) -> Any:
        began, outcome = perf_counter(), "error"
        try:
            result = await method(*args, **kwargs)
            outcome = "ok"
            return result
        except BackendUnavailable:
            outcome = "unavailable"
            raise
        except CancelledError:
            outcome = "cancelled"
            raise
        finally:
            asked(backend, operation, outcome, perf_counter() - began)

    return clocked
