"""Saga: what was done is undone when what follows fails.

Rule of this file: plain asyncio. What an undo does is durable because it runs in an orchestrator;
nothing here knows of activities or of history.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import ParamSpec, Self

from anyio import CancelScope

from durable.core.errors import ContinuedAsNew, DurableError, LoopDiscardedError, NonDeterminismError

P = ParamSpec("P")

_GOES_ON_ELSEWHERE = (GeneratorExit, KeyboardInterrupt, SystemExit, NonDeterminismError, LoopDiscardedError)
"""These end the code in this process, not the orchestration: it goes on from its history, so nothing is undone."""


class CompensationError(DurableError):
    """Undos of a saga failed; ``failures`` holds what each of these raised, in the order they were started.

    ``__cause__`` is the error for which the saga was undone, if there was one.
    """

    def __init__(self, failures: Sequence[BaseException]) -> None:
        listed = "; ".join(f"{type(failure).__qualname__}: {failure}" for failure in failures)
        super().__init__(f"{len(failures)} of the saga's undos failed, and what they undo may be left done: {listed}")
        self.failures: tuple[BaseException, ...] = tuple(failures)


class Saga:
    """Collects undos, and runs them, the last one added first, when its ``async with`` block does not end well.

    For use in orchestrators::

        async with Saga() as saga:
            booking = await book_hotel(trip)
            saga.add(cancel_hotel, booking)
            await book_flight(trip)  # should it fail, the hotel is cancelled, and its error is raised

    The undos run when the block ends by an error or by cancellation, one after the other, or all at once if
    ``parallel`` (still started in reverse order). The failure of one does not keep the others from running.
    A cancellation that arrives meanwhile waits until all are done, and is raised then.
    When the block ends well, or the orchestrator continues as new, the undos are dropped. They do not run either
    when the code is thrown out of memory or the instance is parked, for then the orchestration goes on later.

    Raises:
        CompensationError: undos failed. It is raised from the error that ended the block, a cancellation, too.
    """

    def __init__(self, *, parallel: bool = False) -> None:
        self._parallel = parallel
        self._undos: list[Callable[[], Awaitable[object]]] = []

    def add(self, undo: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have ``undo(*args, **kwargs)``, an activity or any async function, called should the saga be undone.

        Add it before the step that it undoes if a step that failed may have taken effect all the same.
        """
        self._undos.append(lambda: undo(*args, **kwargs))

    async def compensate(self) -> None:
        """Run the undos now, as if the block had failed; each runs once, also if the block then fails.

        Raises:
            CompensationError: undos failed.
        """
        await self._compensate(sys.exception())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, ContinuedAsNew):
            self._undos.clear()
        # A loop that was discarded is closed. Code that it ends may turn GeneratorExit into another error.
        elif not isinstance(error, _GOES_ON_ELSEWHERE) and not asyncio.get_running_loop().is_closed():
            await self._compensate(error)

    async def _compensate(self, origin: BaseException | None) -> None:
        failures: list[BaseException] = []
        cancelled: asyncio.CancelledError | None = None
        try:
            # A cancelled scope of anyio would cancel again and again, without letting the loop come to rest.
            with CancelScope(shield=True):
                while self._undos:  # an undo may add others
                    tasks = [asyncio.create_task(_call(undo)) for undo in self._take()]
                    while not all(task.done() for task in tasks):
                        try:
                            await asyncio.wait(tasks)
                        except asyncio.CancelledError as error:
                            cancelled = error
                    failures += [failure for task in tasks if (failure := _failure(task)) is not None]
            if cancelled is not None:
                cancelled.__context__ = origin  # a task throws it in without one
            if failures:
                raise CompensationError(failures) from (cancelled or origin)
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled  # its traceback holds this frame

    def _take(self) -> list[Callable[[], Awaitable[object]]]:
        """The undos to be started next, which are then no longer kept."""
        if not self._parallel:
            return [self._undos.pop()]
        undos, self._undos = self._undos[::-1], []
        return undos


async def _call(undo: Callable[[], Awaitable[object]]) -> None:
    await undo()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    """What an undo raised. That by which an instance is parked is raised here, as in any other code."""
    try:
        failure = task.exception()
    except asyncio.CancelledError as cancelled:
        return cancelled
    if isinstance(failure, _GOES_ON_ELSEWHERE):
        raise failure
    return failure
