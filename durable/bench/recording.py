"""A backend that keeps what the engine writes, so that the same can be written again without the engine.

Rule of this file: writes overlap when they are written again as they did the first time, so that the store may put
together what it put together then. Leases, heartbeats and reads are not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from durable.backend import Backend

_WRITES = ("create_instances", "commit", "settle", "send", "consume", "annotate", "put_payloads")


@dataclass(frozen=True, slots=True)
class Step:
    """A write begins, or (``operation`` None) the one of that number has ended."""

    number: int
    operation: str | None = None
    arguments: tuple[Any, ...] = ()


_UnderWay: TypeAlias = dict[int, "asyncio.Task[Any]"]


class RecordingBackend:
    """Passes everything on to ``inner``, counts its commits, and with ``keep`` remembers the writes."""

    def __init__(self, inner: Backend, *, keep: bool) -> None:
        self._inner = inner
        self.settles_on_commit = inner.settles_on_commit
        self.keep = keep
        self.commits = 0
        self.steps: list[Step] = []
        self._written = 0
        for operation in _WRITES:
            setattr(self, operation, partial(self._write, operation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _write(self, operation: str, *arguments: Any) -> Any:
        self.commits += operation == "commit"
        write = getattr(self._inner, operation)
        if not self.keep:
            return await write(*arguments)
        number = self._written
        self._written += 1
        self.steps.append(Step(number, operation, arguments))
        try:
            return await write(*arguments)
        finally:
            self.steps.append(Step(number))


class Repetition:
    """Writes recorded steps to an open, empty store, with nothing around it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._under_way: _UnderWay = {}

    async def write(self, steps: Sequence[Step]) -> None:
        """Write these steps, and wait for all that has begun. A batch that is given comes again as it is."""
        for step in steps:
            if step.operation is not None:
                write = getattr(self._backend, step.operation)
                self._under_way[step.number] = asyncio.create_task(write(*step.arguments))
            elif step.number in self._under_way:  # else it had begun in an earlier stretch, and has ended there
                await self._under_way.pop(step.number)
        await asyncio.gather(*self._under_way.values())
        self._under_way.clear()
