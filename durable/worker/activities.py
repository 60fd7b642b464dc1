"""Running activities: attempts with a timeout, cooperative cancellation, a bound on how many run at once.

Rule of this file: an attempt ends in exactly one of three ways - an outcome event that is delivered,
a cancellation that was asked for (no outcome), or the death of this process (another delivery).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from durable.activity_context import ActivityContext
from durable.clock import Clock
from durable.core.errors import ActivityTimeoutError, FailureDetails, PoisonActivityError
from durable.core.events import TaskCompleted, TaskFailed, TaskScheduled
from durable.definitions import Activity
from durable.payloads import encode

Outcome: TypeAlias = TaskCompleted | TaskFailed
Deliver: TypeAlias = Callable[["Attempt", Outcome], None]
Key: TypeAlias = tuple[str, str, int]


@dataclass(slots=True, eq=False)
class Attempt:
    """One delivery of an activity task."""

    instance_id: str
    execution_id: str
    scheduled: TaskScheduled
    definition: Activity[Any, Any]
    number: int
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    started_at: int = 0
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.instance_id, self.execution_id, self.scheduled.task_id


class ActivityRunner:
    """Runs attempts in this process, at most ``limit`` at once and ``threads`` of them in threads."""

    def __init__(
        self, worker_id: str, clock: Clock, deliver: Deliver, *, limit: int, threads: int, max_deliveries: int
    ) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._deliver = deliver
        self._limit = limit
        self._max_deliveries = max_deliveries
        self._queue: deque[Attempt] = deque()
        self._attempts: dict[Key, Attempt] = {}
        self._running = 0
        self._context = Context()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="durable-activity")

    def __contains__(self, key: Key) -> bool:
        return key in self._attempts

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def start(self, attempt: Attempt) -> None:
        """Run ``attempt`` as soon as there is room. One that is here already is left alone."""
        if attempt.key in self._attempts:
            return
        self._attempts[attempt.key] = attempt
        if self._running < self._limit:
            self._launch(attempt)
        else:
            self._queue.append(attempt)

    def cancel(self, key: Key) -> None:
        """Ask an attempt to stop: ``CancelledError`` at its await. It has no outcome any more."""
        attempt = self._attempts.pop(key, None)
        if attempt is not None:
            attempt.cancelled = True
            if attempt.task is not None:
                attempt.task.cancel()

    def withdraw(self, which: Callable[[Attempt], bool]) -> None:
        """Let go those that have not started and that ``which`` names; somebody else will deliver them."""
        kept: deque[Attempt] = deque()
        for attempt in self._queue:
            if which(attempt):
                self._attempts.pop(attempt.key, None)
            else:
                kept.append(attempt)
        self._queue = kept

    async def close(self) -> None:
        """Cancel what still runs and wait for the cancellations to be taken. Threads are not waited for."""
        tasks = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        for key in list(self._attempts):
            self.cancel(key)
        if tasks:
            await asyncio.wait(tasks)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _launch(self, attempt: Attempt) -> None:
        self._running += 1
        loop = asyncio.get_running_loop()
        attempt.task = loop.create_task(self._run(attempt), context=self._context.copy())
        attempt.task.add_done_callback(self._make_room)  # it may be cancelled before it runs a line

    async def _run(self, attempt: Attempt) -> None:
        outcome: Outcome | None = None
        try:
            outcome = await self._outcome(attempt)
        finally:
            # The entry may be another attempt's by now: this one was cancelled and the call delivered again.
            if self._attempts.get(attempt.key) is attempt:
                del self._attempts[attempt.key]
        if outcome is not None and not attempt.cancelled:
            self._deliver(attempt, outcome)

    def _make_room(self, ended: asyncio.Task[None]) -> None:
        self._running -= 1
        while self._queue and self._running < self._limit:
            attempt = self._queue.popleft()
            if not attempt.cancelled:
                self._launch(attempt)

    async def _outcome(self, attempt: Attempt) -> Outcome | None:
        attempt.started_at = self._clock()
        task_id = attempt.scheduled.task_id
        try:
            if attempt.number > self._max_deliveries:
                raise PoisonActivityError(
                    f"activity {attempt.scheduled.name!r} was delivered {attempt.number - 1} times without an outcome: "
                    "its worker died each time. Mend it, or raise max_deliveries"
                )
            result = await self._call(attempt)
            payload = encode(result, f"the result of activity {attempt.scheduled.name!r}")
        except asyncio.CancelledError as error:
            if attempt.cancelled:
                return None
            return self._failed(attempt, error)  # the activity cancelled itself
        except (Exception, SystemExit) as error:
            return self._failed(attempt, error)
        return TaskCompleted(self._clock(), task_id, payload, attempt.number, attempt.started_at, self._worker_id)

    def _failed(self, attempt: Attempt, error: BaseException) -> TaskFailed:
        details = FailureDetails.of(error)
        task_id = attempt.scheduled.task_id
        return TaskFailed(self._clock(), task_id, details, attempt.number, attempt.started_at, self._worker_id)

    async def _call(self, attempt: Attempt) -> Any:
        definition, scheduled = attempt.definition, attempt.scheduled
        args, kwargs = definition.codec.decode_arguments(scheduled.input)
        context = ActivityContext(
            attempt.instance_id, attempt.execution_id, scheduled.task_id, scheduled.name, attempt.number
        )
        context.enter()
        if scheduled.timeout is None:
            return await self._invoke(definition, args, kwargs)
        seconds = scheduled.timeout / 1_000_000
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                return await self._invoke(definition, args, kwargs)
        except TimeoutError:
            if not scope.expired():
                raise  # the activity's own
            raise ActivityTimeoutError(
                f"activity {scheduled.name!r} did not end within its timeout of {seconds:g} s"
            ) from None

    async def _invoke(self, definition: Activity[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if definition.is_async:
            return await definition.fn(*args, **kwargs)
        context = copy_context()
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._threads, lambda: context.run(definition.fn, *args, **kwargs))
