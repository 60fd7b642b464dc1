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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from durable.activity_context import DEFERRED, ActivityContext
from durable.clock import Clock
from durable.core.errors import ActivityTimeoutError, FailureDetails, PoisonActivityError
from durable.core.events import TaskCompleted, TaskDeferred, TaskFailed, TaskScheduled
from durable.definitions import Activity
from durable.instrument import LiveSpan
from durable.payloads import decode, encode
from durable.worker.transactional import Transactions

Outcome: TypeAlias = TaskCompleted | TaskFailed | TaskDeferred
Deliver: TypeAlias = Callable[["Attempt", Outcome], None]
Report: TypeAlias = Callable[[str, int, str], None]
"""Hears the heartbeats: instance, task, details as JSON text."""

Key: TypeAlias = tuple[str, str, int]


@dataclass(slots=True, eq=False)
class Attempt:
    """One delivery of an activity task. ``heartbeat`` is the last report (JSON text), its own or an earlier one.

    ``begin`` puts the running context into the attempt's trace; ``live`` is what that gave.
    ``on_end`` hears, instead of the instance, how an attempt ended that came from a queue: with its outcome; or with
    None, when the outcome was committed by the activity's transaction, or it was cancelled.
    """

    instance_id: str
    execution_id: str
    scheduled: TaskScheduled
    definition: Activity[Any, Any]
    number: int
    heartbeat: str | None = None
    on_end: Callable[[Attempt, Outcome | None], None] | None = None
    alive: asyncio.Timeout | None = None
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    started_at: int = -1  # it has not run a line yet
    begin: Callable[[], LiveSpan | None] | None = None
    live: LiveSpan | None = None
    context: ActivityContext | None = None
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.instance_id, self.execution_id, self.scheduled.task_id


class ActivityRunner:
    """Runs attempts in this process, at most ``limit`` at once and ``threads`` of them in threads."""

    def __init__(
        self,
        worker_id: str,
        clock: Clock,
        deliver: Deliver,
        report: Report,
        *,
        limit: int,
        threads: int,
        max_deliveries: int,
        transactions: Transactions | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._deliver = deliver
        self._report = report
        self._transactions = transactions
        self._limit = limit
        self._max_deliveries = max_deliveries
        self._queue: deque[Attempt] = deque()
        self._attempts: dict[Key, Attempt] = {}
        self._running = 0
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="durable-activity")

    def __contains__(self, key: Key) -> bool:
        return key in self._attempts

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    @property
    def slots(self) -> tuple[int, int]:
        """How many attempts run, and how many may at once."""
        return self._running, self._limit

    @property
    def room(self) -> int:
        """How many more attempts could run now."""
        return max(0, self._limit - self._running - len(self._queue))

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
                if attempt.started_at < 0:  # it will not run a line
                    self._running -= 1
                    self._make_room()
            if attempt.on_end is not None:
                attempt.on_end(attempt, None)

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
        self.withdraw(lambda attempt: True)
        tasks = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        for key in list(self._attempts):
            self.cancel(key)
        if tasks:
            await asyncio.wait(tasks)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _launch(self, attempt: Attempt) -> None:
        self._running += 1
        attempt.task = self._loop.create_task(
            self._run(attempt), name=attempt.scheduled.name, context=self._context.copy()
        )

    async def _run(self, attempt: Attempt) -> None:
        attempt.started_at = self._clock()
        outcome: Outcome | None = None
        try:
            outcome = await self._outcome(attempt)
        finally:
            # The entry may be another attempt's by now: this one was cancelled and the call delivered again.
            if self._attempts.get(attempt.key) is attempt:
                del self._attempts[attempt.key]
            attempt.task = None  # whose context holds the attempt: a cycle would be left to the garbage collector
            self._running -= 1
            if self._queue:
                self._make_room()
        if attempt.cancelled:
            return
        if outcome is not None and attempt.live is not None and (recorded := attempt.live.recorded()) is not None:
            outcome = replace(outcome, trace=recorded)
        if attempt.on_end is not None:
            attempt.on_end(attempt, outcome)
        elif outcome is not None:
            self._deliver(attempt, outcome)

    def _make_room(self) -> None:
        while self._queue and self._running < self._limit:
            attempt = self._queue.popleft()
            if not attempt.cancelled:
                self._launch(attempt)

    async def _outcome(self, attempt: Attempt) -> Outcome | None:
        task_id = attempt.scheduled.task_id
        try:
            if attempt.number > self._max_deliveries:
                raise PoisonActivityError(
                    f"activity {attempt.scheduled.name!r} was delivered {attempt.number - 1} times without an outcome: "
                    "its worker died each time. Mend it, or raise max_deliveries"
                )
            definition, scheduled = attempt.definition, attempt.scheduled
            args, kwargs = definition.codec.decode_arguments(scheduled.input)
            ActivityContext.enter(partial(self._context_of, attempt))
            if definition.transactional:
                await self._transact(attempt, args, kwargs)
                return None
            if attempt.begin is not None:
                attempt.live = attempt.begin()
            if definition.is_async and scheduled.timeout is None and scheduled.heartbeat_timeout is None:
                result = await definition.fn(*args, **kwargs)  # the usual case, without coroutines around it
            else:
                result = await self._call(attempt, args, kwargs)
            if result is DEFERRED:
                return TaskDeferred(self._clock(), task_id, attempt.number, attempt.started_at, self._worker_id)
            payload = definition.codec.encode_result(result)
        except asyncio.CancelledError as error:
            if attempt.cancelled:
                return None
            return self._failed(attempt, error)  # the activity cancelled itself
        except (Exception, SystemExit) as error:
            return self._failed(attempt, error)
        return TaskCompleted(self._clock(), task_id, payload, attempt.number, attempt.started_at, self._worker_id)

    async def _transact(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have the attempt's outcome committed with what it writes; the store tells of it then."""
        scheduled = attempt.scheduled

        async def work(session: Any) -> TaskCompleted:
            context = replace(self._context_of(attempt), session=session)
            ActivityContext.enter(lambda: context)
            if attempt.begin is not None:
                attempt.live = attempt.begin()  # the transaction may be run again, and what counts is the last run
            payload = encode(
                await self._call(attempt, args, kwargs), f"the result of transactional activity {scheduled.name!r}"
            )
            recorded = None if attempt.live is None else attempt.live.recorded()
            place = attempt.number, attempt.started_at, self._worker_id
            return TaskCompleted(self._clock(), scheduled.task_id, payload, *place, trace=recorded)

        assert self._transactions is not None  # the worker has looked whether there are any
        await self._transactions.run(attempt.instance_id, attempt.execution_id, scheduled, work)

    def _failed(self, attempt: Attempt, error: BaseException) -> TaskFailed:
        details = FailureDetails.of(error)
        task_id = attempt.scheduled.task_id
        return TaskFailed(
            self._clock(), task_id, details, attempt.number, attempt.started_at, self._worker_id, attempt.heartbeat
        )

    async def _call(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        definition, scheduled = attempt.definition, attempt.scheduled
        whole = asyncio.timeout(_seconds(scheduled.timeout))
        alive = attempt.alive = asyncio.timeout(_seconds(scheduled.heartbeat_timeout))
        try:
            async with whole, alive:
                return await self._invoke(definition, args, kwargs)
        except TimeoutError:
            if whole.expired():
                what = f"did not end within its timeout of {_seconds(scheduled.timeout):g} s"
            elif alive.expired():
                what = f"sent no heartbeat within its timeout of {_seconds(scheduled.heartbeat_timeout):g} s"
            else:
                raise  # the activity's own
            raise ActivityTimeoutError(f"activity {scheduled.name!r} {what}") from None
        finally:
            attempt.alive = None

    def _context_of(self, attempt: Attempt) -> ActivityContext:
        """What the activity may ask about its attempt; made when it first does, which is before it reports anything."""
        if attempt.context is None:
            attempt.context = self._new_context(attempt)
        return attempt.context

    def _new_context(self, attempt: Attempt) -> ActivityContext:
        scheduled = attempt.scheduled
        previous = scheduled.previous
        return ActivityContext(
            attempt.instance_id,
            attempt.execution_id,
            scheduled.task_id,
            scheduled.name,
            attempt.number + (0 if previous is None else previous.attempts),
            scheduled.task_id if previous is None else previous.first_task_id,
            None if attempt.heartbeat is None else decode(attempt.heartbeat),
            partial(self._reported, attempt),
        )

    def _reported(self, attempt: Attempt, details: Any) -> None:
        """Take a heartbeat; from any thread."""
        text = encode(details, f"the heartbeat of activity {attempt.scheduled.name!r}")
        attempt.heartbeat = text  # at once: the attempt may fail in its next line
        self._loop.call_soon_threadsafe(self._beat, attempt, text)

    def _beat(self, attempt: Attempt, details: str) -> None:
        if self._attempts.get(attempt.key) is not attempt:
            return  # it has ended
        if attempt.alive is not None and attempt.scheduled.heartbeat_timeout is not None:
            until = asyncio.get_running_loop().time() + attempt.scheduled.heartbeat_timeout / 1_000_000
            if not attempt.alive.expired():
                attempt.alive.reschedule(until)
        self._report(attempt.instance_id, attempt.scheduled.task_id, details)

    async def _invoke(self, definition: Activity[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if definition.is_async:
            return await definition.fn(*args, **kwargs)
        context = copy_context()
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._threads, lambda: context.run(definition.fn, *args, **kwargs))


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else micros / 1_000_000
