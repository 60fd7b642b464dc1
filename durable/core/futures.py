"""Tasks and futures of the deterministic loop, and the calls an orchestrator awaits.

Rule of this file: whatever asyncio or anyio may put in a set has a hash that is the same at
every replay: its creation number in its loop, salted per instance. (Salted, because those
registries are process-wide, and the first task of every instance would collide.)
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from durable.core.loop import DeterministicLoop

R = TypeVar("R")


class Task(asyncio.Task[Any]):
    """An asyncio task with a hash of its own; named ``Task`` because reprs are compared."""

    __slots__ = ("_seq",)

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: DeterministicLoop,
        name: str | None,
        context: Context | None,
        **kwargs: Any,
    ) -> None:
        # Before super().__init__, which puts the task into asyncio's registry and so hashes it.
        self._seq = loop.next_seq()
        super().__init__(coro, loop=loop, name=name, context=context, **kwargs)

    def __hash__(self) -> int:
        return self._seq


class Future(asyncio.Future[Any]):
    """An asyncio future with a hash of its own."""

    __slots__ = ("_seq",)

    def __init__(self, *, loop: DeterministicLoop) -> None:
        self._seq = loop.next_seq()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._seq


class DurableFuture(Future):
    """The outcome of something durable that was asked for, under its ``task_id``.

    It has the members of a Task that asyncio's and anyio's task groups use, so that the loop
    can hand it out where a Task is expected and no Task has to be made around it.
    """

    # _log_destroy_pending: gather sets it on whatever create_task returned.
    __slots__ = ("_call", "_log_destroy_pending", "_name", "_on_cancel", "task_id")

    _must_cancel = False
    _fut_waiter = None

    def __init__(self, task_id: int, on_cancel: Callable[[int], None], *, loop: DeterministicLoop) -> None:
        self._seq = loop.next_seq()
        self.task_id = task_id
        self._on_cancel = on_cancel
        self._call: DurableCall[Any] | None = None
        self._name: str | None = None
        asyncio.Future.__init__(self, loop=loop)

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop waiting. The request to cancel is recorded; the outcome will not be."""
        if self.done():
            return False
        if not self.get_loop().is_closed():  # code that is being evicted cancels nothing
            self._on_cancel(self.task_id)
        return super().cancel(msg)

    def get_name(self) -> str:
        return self._name or f"durable-{self.task_id}"

    def set_name(self, value: object) -> None:
        self._name = str(value)

    def get_coro(self) -> DurableCall[Any] | None:
        return self._call

    def cancelling(self) -> int:
        return int(self.cancelled())

    def uncancel(self) -> int:
        return self.cancelling()

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        return []


class DurableCall(Coroutine[Any, Any, R], Generic[R]):
    """A call that has not started: ``await`` it, or give it to ``gather``, ``create_task`` or a task group.

    It behaves like the coroutine of any async function - it starts when it is awaited, and
    only once - but the loop's ``create_task`` starts it without a Task around it. ``names`` are put into the
    places that the text ``what`` has for them.
    """

    # It does not hold the future it started: that one holds it, and a cycle would be left to the garbage collector.
    __slots__ = ("_names", "_running", "_start", "_what")

    def __init__(self, start: Callable[[], DurableFuture], what: str, *names: object) -> None:
        self._what = what
        self._names = names
        self._start: Callable[[], DurableFuture] | None = start
        self._running: Generator[Any, Any, R] | None = None

    @property
    def what(self) -> str:
        """What is called, for messages; put together only when there is one, as a call is made at every step."""
        return self._what.format(*self._names)

    def start(self) -> DurableFuture:
        """Begin, and return the future of the outcome. Raises RuntimeError the second time."""
        start, self._start = self._start, None
        if start is None:
            raise RuntimeError(f"cannot reuse already awaited call of {self.what}")
        future = start()
        future._call = self
        return future

    def __await__(self) -> Generator[Any, Any, R]:
        return self.start().__await__()

    # The coroutine protocol, for those who drive a call by hand (``asyncio.Task(call)``).

    def send(self, value: Any) -> Any:
        if self._running is None:
            self._running = self.__await__()
        return self._running.send(value)

    def throw(self, *exc_info: Any) -> Any:
        if self._running is None:
            self.close()
            raise next(given for given in (*exc_info[1:2], exc_info[0]) if given is not None)
        return self._running.throw(*exc_info)

    def close(self) -> None:
        self._start = None
        if self._running is not None:
            self._running.close()

    @property
    def cr_running(self) -> bool:
        return False

    @property
    def cr_suspended(self) -> bool:
        return self._start is None

    @property
    def cr_await(self) -> None:
        return None

    @property
    def cr_frame(self) -> None:
        return None

    def __del__(self) -> None:
        if self._start is not None:
            warnings.warn(f"call of {self.what} was never awaited", RuntimeWarning, stacklevel=2, source=self)
