"""Waiting for what the store will show, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from durable import InstanceNotFoundError

DEADLINE = 30


async def until(look: Callable[[], Any], good: Callable[[Any], bool], deadline: float = DEADLINE) -> Any:
    """What ``look`` gives as soon as it is ``good``; a query is read to its end."""
    seen: Any = None
    try:
        async with asyncio.timeout(deadline):
            while True:
                try:
                    seen = look()
                    if isinstance(seen, AsyncIterable):
                        seen = [one async for one in seen]
                    elif isinstance(seen, Awaitable):
                        seen = await seen
                except InstanceNotFoundError as error:
                    seen = error  # not yet
                else:
                    if good(seen):
                        return seen
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not reached within {deadline:g} s; last seen: {seen!r}") from None
