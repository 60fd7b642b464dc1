"""The deterministic event loop: a FIFO ready queue, virtual time, and nothing of the outside world.

Rule of this file: what runs, and in which order, depends on the code and the events applied
and on nothing else - not on addresses, hash seeds, clocks or threads. The loop runs *nested*
in the host's loop and thread: :meth:`DeterministicLoop.run_until_idle` swaps itself in,
runs handles until none is ready, and swaps the host back.

It implements the dozen methods that asyncio's and anyio's primitives call. All others raise
:class:`NonDeterminismError` saying what to use instead.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
import warnings
from asyncio import events as _events
from asyncio import tasks as _tasks
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from math import isnan
from typing import Any, TypeVar

from durable.core.errors import LoopDiscardedError, NonDeterminismError, RunawayTurnError
from durable.core.eviction import close_task
from durable.core.futures import DurableCall, DurableFuture, Future, Task
from durable.core.refusals import at_user_line, refuse_the_rest
from durable.core.refusals import describe_frame as describe_frame
from durable.core.refusals import user_line as user_line

CALLBACK_LIMIT = 1_000_000
"""Callbacks one event may cause before its turn counts as running away."""

T = TypeVar("T")

_KEEPS_TASK_PER_THREAD = sys.version_info >= (3, 14)
_PATIENCE = 100  # refusals after which code that will not end is let go on, into nothing


class Handle:
    """A callback in the ready queue or on a timer; the part of ``asyncio.Handle`` that primitives use."""

    __slots__ = ("__weakref__", "_args", "_callback", "_cancelled", "_context", "_loop", "_when", "task_id")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: DeterministicLoop,
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context if context is not None else copy_context()
        self._cancelled = False
        self._when = when
        self.task_id = 0  # of the durable timer, once it is recorded

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            # A timer may be held until it is due; what it would have called need not be.
            self._callback, self._args = _nothing, ()
            self._loop.handle_cancelled(self)

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        """The time this handle was scheduled for, in the loop's seconds."""
        return self._when

    def get_context(self) -> Context:
        return self._context


class DeterministicLoop(asyncio.AbstractEventLoop):
    """An event loop whose order of execution is a function of its inputs.

    ``salt`` offsets the hashes of its tasks and futures (see ``ids.hash_salt``). Subclasses say
    what a timer is by :meth:`add_timer` and :meth:`handle_cancelled`.
    """

    def __init__(self, salt: int = 0) -> None:
        self._ready: deque[Handle] = deque()
        self._now = 0.0
        self._seq = salt
        self._task_names = 0
        # Strong references: a task that only the garbage collector could end would end at a random time.
        self._tasks: list[Task] = []
        self._prune_tasks_at = 16
        self._asyncgens: list[AsyncGenerator[Any, Any]] = []
        self._prune_asyncgens_at = 16
        self._accepting = False
        self._is_in = False
        self._discarded = False
        self._refusals = 0
        _install_ordered_set()

    # --- what primitives call ------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds; stands still while callbacks run."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        if not self._accepting:
            self._refuse_work()
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        if not self._accepting:
            self._refuse_work()
        if isnan(when):
            raise ValueError("the time of a timer must be a number, not NaN")
        handle = Handle(callback, args, self, context, when)
        if when <= self._now:
            self._ready.append(handle)
        else:
            self.add_timer(handle)
        return handle

    def create_future(self) -> Future:
        if self._discarded:
            self._refuse_work()
        return Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> Task | DurableFuture:
        if not self._accepting:
            self._refuse_task(coro)
        if type(coro) is DurableCall:
            future = coro.start()
            if name is not None:
                future.set_name(name)
            return future
        self._task_names += 1
        # The name is given here because asyncio's own counter is shared by the whole process.
        task = Task(
            coro, loop=self, name=f"Task-{self._task_names}" if name is None else name, context=context, **kwargs
        )
        self._remember(task)
        return task

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Accepted and ignored: debug mode would time callbacks by the real clock."""

    def is_running(self) -> bool:
        return _events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._discarded

    def get_task_factory(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what a callback raised. Silent here; a subclass passes it on."""

    # --- what subclasses define ------------------------------------------------------------

    def add_timer(self, handle: Handle) -> None:
        """Take a handle that is due later than now."""
        raise NotImplementedError

    def handle_cancelled(self, handle: Handle) -> None:
        """A handle was cancelled for the first time."""

    # --- what the engine calls -------------------------------------------------------------

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def advance_to(self, now: float) -> None:
        """Set the time; it never goes back."""
        self._now = now if now > self._now else self._now

    def make_ready(self, handle: Handle) -> None:
        """Put a timer's handle that is due into the ready queue."""
        self.advance_to(handle._when)
        self._ready.append(handle)

    def run_until_idle(self, apply: Callable[..., object] | None = None, *args: Any) -> None:
        """Call ``apply``, then run callbacks until none is ready, with this loop as the running one.

        Raises:
            RunawayTurnError: more than ``CALLBACK_LIMIT`` callbacks ran.
        """
        if self._accepting:
            raise RuntimeError("this loop is in a turn already; it cannot run itself")
        self._accepting = True
        try:
            if self._is_in:
                self._turn(apply, args)
            else:
                self._swapped_in(self._turn, apply, args)
        finally:
            self._accepting = False

    def run_together(self, work: Callable[[], T]) -> T:
        """Call ``work``, which runs this loop until it is idle several times: to swap it in once for all is faster.

        No code but this loop's may run meanwhile, as it would take this loop for its own.
        """
        self._is_in = True
        try:
            return self._swapped_in(work)
        finally:
            self._is_in = False

    def _turn(self, apply: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
        if apply is not None:
            apply(*args)
        self._run_ready(CALLBACK_LIMIT)
        if self._ready:
            raise RunawayTurnError(
                f"the orchestrator ran {CALLBACK_LIMIT} callbacks without coming to rest; "
                "does it loop on asyncio.sleep(0), or retry forever inside a cancelled scope?"
            )

    def _run_ready(self, limit: int) -> None:
        """Run callbacks, each in its context; what they raise goes to the exception handler."""
        ready = self._ready
        for _ in range(limit):
            if not ready:
                break
            handle = ready.popleft()
            if not handle._cancelled:
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    message = f"Exception in callback {handle._callback!r}"
                    self.call_exception_handler({"message": message, "exception": error, "handle": handle})
        # A task's exception holds this frame by its traceback; the frame must not hold the task.
        handle = None  # type: ignore[assignment]

    def live_tasks(self) -> list[Task]:
        """The tasks that are not done, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def has_leftovers(self) -> bool:
        """Whether tasks or async generators are not finished."""
        return bool(self._asyncgens or self.live_tasks())

    async def shutdown_asyncgens(self) -> None:
        """Close the async generators that were started and not finished, in the order they were started."""
        pending, self._asyncgens = self._asyncgens, []
        for generator in pending:
            try:
                await generator.aclose()
            except Exception as error:
                message = f"an error occurred during closing of asynchronous generator {generator!r}"
                self.call_exception_handler({"message": message, "exception": error, "asyncgen": generator})

    def discard(self) -> None:
        """Forget everything without visible or durable effect; the loop refuses all work from here on.

        Suspended coroutines are closed newest first, so that ``finally`` blocks run while every operation
        of this loop is refused. Registries that outlive the instance are cleaned. Call it at the normal
        end too: it breaks the references between a loop and its tasks.
        """
        if self._discarded:
            return
        self._discarded = True
        self._ready.clear()
        if self.live_tasks():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Swapped in, or a ``finally`` that asks for the running loop would reach the host's.
                self._swapped_in(self._close_tasks)
        self._tasks.clear()
        self._asyncgens.clear()
        self._ready.clear()

    def _close_tasks(self) -> None:
        while tasks := self.live_tasks():
            self._tasks.clear()
            for task in reversed(tasks):
                close_task(task)

    def check_not_discarded(self) -> None:
        """Refuse work for an instance that is being, or was, thrown out of memory.

        Raises:
            GeneratorExit: to code that is being ended. When it asks on and on, it is let through in the
                end, into nothing: so it suspends, and can be left.
            LoopDiscardedError: to everyone else.
        """
        if self._discarded:
            self._refuse_work()

    def _swapped_in(self, work: Callable[..., T], *args: Any) -> T:
        """Call ``work`` with this loop as the running one."""
        # The order of these swaps matters on 3.14, where a thread has one slot for the current task.
        host = _events._get_running_loop()
        host_task = _tasks._swap_current_task(host, None) if host and _KEEPS_TASK_PER_THREAD else None  # type: ignore[attr-defined]
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._asyncgen_started, _nothing)
        _events._set_running_loop(self)
        try:
            return work(*args)
        finally:
            _events._set_running_loop(host)
            sys.set_asyncgen_hooks(*hooks)
            if host_task is not None:
                _tasks._swap_current_task(host, host_task)  # type: ignore[attr-defined]

    # --- bookkeeping -----------------------------------------------------------------------

    def _remember(self, task: Task) -> None:
        if len(self._tasks) >= self._prune_tasks_at:
            self._tasks = self.live_tasks()
            self._prune_tasks_at = max(16, 2 * len(self._tasks))
        self._tasks.append(task)

    def _asyncgen_started(self, generator: AsyncGenerator[Any, Any]) -> None:
        # Kept alive, because a finalizer called by the garbage collector would not be deterministic.
        if len(self._asyncgens) >= self._prune_asyncgens_at:
            self._asyncgens = [g for g in self._asyncgens if g.ag_frame is not None]  # type: ignore[attr-defined]
            self._prune_asyncgens_at = max(16, 2 * len(self._asyncgens))
        self._asyncgens.append(generator)

    def _refuse_task(self, coro: Coroutine[Any, Any, Any]) -> None:
        try:
            self._refuse_work()
        except BaseException:
            if self._discarded:
                coro.close()  # or it would warn that it was never awaited
            raise

    def _refuse_work(self) -> None:
        if not self._discarded:
            raise NonDeterminismError(
                "something outside the orchestrator touched its event loop between turns (a thread, or a future "
                "of the host's loop); send results to an orchestrator through activities or external events"
            )
        if not self.is_running():
            raise LoopDiscardedError("this instance was evicted from memory; its loop takes no more work")
        self._refusals += 1
        if self._refusals <= _PATIENCE:
            # Not an Exception, or a ``finally`` that retries its clean-up until it works would never end.
            raise GeneratorExit("this instance is being evicted from memory; its code must not run on")


def _nothing(*_: object) -> None:
    """A callback that does nothing."""


refuse_the_rest(DeterministicLoop)


# --- the one patch of asyncio ----------------------------------------------------------------


def _install_ordered_set() -> None:
    """Make ``asyncio.wait`` and ``as_completed`` iterate in the order given, on this loop only.

    ``as_completed`` puts bare coroutines into a set, which would be ordered by address; and
    ``wait`` checks no loops, so that a host's task would complete our future between turns.
    """
    _tasks.set = _ordered_set  # type: ignore[attr-defined]


def _ordered_set(*iterables: Iterable[Any]) -> Any:
    loop = _events._get_running_loop()
    if not iterables or not isinstance(loop, DeterministicLoop):
        return builtins.set(*iterables)
    members = dict.fromkeys(iterables[0])
    for member in members:
        if asyncio.isfuture(member) and member.get_loop() is not loop:
            raise NonDeterminismError(
                f"{member!r} belongs to another event loop and cannot be awaited in an orchestrator"
                f"{at_user_line()}; do that work in an activity"
            )
    return members
