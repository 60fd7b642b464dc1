"""An event loop that stands alone, in virtual time: a month's ``sleep`` takes no time.

It is the loop orchestrators run on, with what ``asyncio.Runner`` needs to drive it; so a test
that passes on it sees the order of execution that an orchestrator would.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from asyncio import events as _events
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

from durable.anyio_order import install
from durable.core.futures import DurableFuture, Task
from durable.core.loop import DeterministicLoop, Handle, describe_frame
from durable.core.refusals import refused

if TYPE_CHECKING:
    # A type checker does not see the methods that refuse, and would call the class abstract.
    class _Loop(DeterministicLoop, asyncio.BaseEventLoop): ...  # type: ignore[misc]
else:
    _Loop = DeterministicLoop

T = TypeVar("T")


ExceptionHandler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


class DeadlockError(RuntimeError):
    """All tasks wait, and no timer is set that could wake one; the message names them and their lines."""


class VirtualLoop(_Loop):
    """A deterministic event loop to be used as ``asyncio.Runner(loop_factory=VirtualLoop)``.

    When nothing is ready it jumps to the next timer. When there is no timer either, running it
    raises :class:`DeadlockError`, for nothing else could wake it: it does no I/O, and threads
    cannot be started from its tasks. Timers that are due at the same time fire in the order in
    which they were set; a timer at infinity never fires.
    """

    def __init__(self) -> None:
        super().__init__()
        install()
        self._accepting = True
        self._timers: list[tuple[float, int, Handle]] = []
        self._timers_set = 0
        self._stopping = False
        self._debug = False
        self._task_factory: Callable[..., Any] | None = None
        self._thread_id = threading.get_ident()

    # --- running -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called.

        Raises:
            DeadlockError: nothing is left that could run.
        """
        if self.is_closed():
            self._refuse_work()
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if _events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")
        try:
            self._swapped_in(self._run_until_stopped)
        finally:
            self._stopping = False

    def run_until_complete(self, future: Awaitable[T]) -> T:  # type: ignore[override]
        """Run until ``future`` (or the coroutine given) is done; return its result or raise its exception."""
        if self.is_closed():
            self._refuse_work()
        is_new = not asyncio.isfuture(future)
        task: asyncio.Future[T] = asyncio.ensure_future(future, loop=self)
        if is_new:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.add_done_callback(_stop_loop_of)
        try:
            self.run_forever()
        except BaseException:
            if is_new and task.done() and not task.cancelled():
                task.exception()  # it is what is being raised: marks it as seen
            raise
        finally:
            task.remove_done_callback(_stop_loop_of)
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return task.result()

    def _run_until_stopped(self) -> None:
        while True:
            self._run_once()
            if self._stopping:
                return

    def _run_once(self) -> None:
        if not self._ready and not self._stopping:
            self._jump()
        # Only what is ready now: a callback that stops the loop lets those that came with it run.
        self._run_ready(len(self._ready))

    def _jump(self) -> None:
        """Advance the time to the next timer, and make ready all that are due then."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers or timers[0][0] == float("inf"):
            raise self._deadlock()
        self.advance_to(timers[0][0])
        while timers and timers[0][0] <= self.time():
            self._ready.append(heapq.heappop(timers)[2])

    def _deadlock(self) -> DeadlockError:
        waiting = "; ".join(f"{task.get_name()} at {_where(task)}" for task in self.live_tasks())
        return DeadlockError(
            f"all tasks wait and no timer is set, so nothing could ever wake them (waiting: {waiting or 'none'})"
        )

    def stop(self) -> None:
        """Let :meth:`run_forever` return after the callbacks that are ready now."""
        self._stopping = True

    def close(self) -> None:
        """Drop all callbacks and timers and refuse new ones. The loop must not be running."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self._accepting = False
        self._discarded = True
        self._ready.clear()
        self._timers.clear()

    def _refuse_work(self) -> NoReturn:
        raise RuntimeError("Event loop is closed")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor."""

    # --- callbacks and timers ------------------------------------------------------------------

    def add_timer(self, handle: Handle) -> None:
        """Keep a timer until the time jumps to it."""
        self._timers_set += 1
        heapq.heappush(self._timers, (handle.when(), self._timers_set, handle))

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        """As :meth:`call_soon`, for signal handlers. Refused in other threads, which cannot wake this loop."""
        if threading.get_ident() != self._thread_id:
            raise refused("loop.call_soon_threadsafe()", "a loop in virtual time cannot be woken from another thread")
        return self.call_soon(callback, *args, context=context)

    # --- tasks ---------------------------------------------------------------------------------

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> Task | DurableFuture:
        if self._task_factory is None:
            return super().create_task(coro, name=name, context=context, **kwargs)
        if context is not None:
            kwargs["context"] = context
        task: Task = self._task_factory(self, coro, **kwargs)
        if name is not None:
            task.set_name(name)
        return task

    def set_task_factory(self, factory: Callable[..., Any] | None) -> None:
        """Make tasks by ``factory(loop, coro, **kwargs)``. Their order in sets is then up to the factory."""
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        return self._task_factory

    def live_tasks(self) -> list[Any]:
        """The tasks that are not done, oldest first."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def _remember(self, task: Task) -> None:
        """Keep no reference: on this loop a forgotten task may be collected, and reported, as on any other."""

    # --- debugging and errors --------------------------------------------------------------------

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        self._debug = enabled

    # asyncio's own handling of exceptions reads these two attributes and nothing else of a loop.
    _exception_handler: ExceptionHandler | None = None
    _current_handle: Any = None

    def get_exception_handler(self) -> ExceptionHandler | None:
        return self._exception_handler

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        asyncio.BaseEventLoop.set_exception_handler(self, handler)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        asyncio.BaseEventLoop.default_exception_handler(self, context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        asyncio.BaseEventLoop.call_exception_handler(self, context)


def _stop_loop_of(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and isinstance(future.exception(), (SystemExit, KeyboardInterrupt)):
        return  # it leaves the loop by itself, and the callbacks that are ready now must not run
    future.get_loop().stop()


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return describe_frame(frames[0]) if frames else "an unknown line"
