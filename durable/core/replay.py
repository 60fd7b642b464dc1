"""Replay: an orchestrator's code driven by events, and the decisions it comes to.

Rule of this file: live and replay take the same path - apply one event, run the loop until it
is idle, next event. Replaying differs in one thing only: each decision must equal the
recorded one. The caller owns storage, time and all effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import replace
from math import ceil
from typing import Any, TypeAlias

from durable.core.context import (
    ActivityTarget,
    OrchestrationContext,
    OrchestrationLoop,
    Services,
    call_later_future,
)
from durable.core.errors import (
    ActivityFailedError,
    FailureDetails,
    NonDeterminismError,
    StuckOrchestrationError,
)
from durable.core.events import (
    ArrivedEvent,
    CustomStatusSet,
    Decision,
    ExecutionCompleted,
    ExecutionStarted,
    HistoryEvent,
    OrchestratorCompleted,
    OrchestratorStarted,
    RecordedTurn,
    TaskCancelRequested,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from durable.core.futures import DurableCall, DurableFuture, Future, Task
from durable.core.ids import hash_salt
from durable.core.loop import Handle, user_line
from durable.core.refusals import describe_frame, is_user_module
from durable.core.state import RuntimeStatus

Begin: TypeAlias = Callable[[OrchestrationContext, str], Coroutine[Any, Any, Any]]
"""Makes the orchestrator's coroutine from its context and its encoded arguments."""

_FOREVER = 7_000 * 365.25 * 86_400
"""Seconds that stand for ``asyncio.sleep(math.inf)``: within what a datetime can show."""

_FOREIGN_FUTURE = "attached to a different loop"


class Orchestration:
    """One execution of an orchestrator, live in memory.

    Feed it turns, first the recorded ones by :meth:`replay`, then new ones by :meth:`turn`. Both are
    iterators that pause after each event, so that the caller can let its host breathe. When one
    raises, the object is of no use any more: discard it and start again from history.
    """

    def __init__(self, started: ExecutionStarted, begin: Begin, services: Services, *, strict: bool = False) -> None:
        self.started = started
        self.services = services
        self.context = OrchestrationContext(self)
        self.loop = OrchestrationLoop(self, hash_salt(started.instance_id))  # type: ignore[abstract]  # the rest refuses
        self.timestamp = started.timestamp
        self.length = 0
        self.is_replaying = False
        self._begin = begin
        self._strict = strict
        self._main: Task | None = None
        self._finished = False
        self._last_task_id = 0
        self._activities: dict[int, tuple[DurableFuture, ActivityTarget[Any]]] = {}
        self._timers: dict[int, Handle] = {}
        self._custom_status: str | None = None
        self._decisions: list[Decision] = []
        self._turn_opening = 0
        self._recorded: Sequence[Decision] = ()
        self._mismatch: NonDeterminismError | None = None

    # --- for the engine ----------------------------------------------------------------------

    def replay(self, turns: Iterable[RecordedTurn]) -> Iterator[None]:
        """Run recorded turns again, comparing what the code decides with what it decided then.

        Raises:
            NonDeterminismError: a decision differs; the message says what was expected and where.
        """
        self.is_replaying = True
        for turn in turns:
            self._recorded = turn.decisions
            yield from self._run(turn.arrived, turn.timestamp)
            if len(self._decisions) < len(turn.decisions):
                raise self._differs(turn.decisions[len(self._decisions)], None)
            self.length += len(turn.arrived) + len(turn.decisions) + 2
        self.is_replaying = False

    def turn(self, arrived: Sequence[ArrivedEvent], timestamp: int) -> Iterator[tuple[HistoryEvent, ...] | None]:
        """Run a new turn at ``timestamp``; the last item of the iterator is the turn's events, to be committed.

        Raises:
            NonDeterminismError: the code did what an orchestrator must not do.
            StuckOrchestrationError: it waits for nothing that could ever happen.
            RunawayTurnError: it does not come to rest.
        """
        yield from self._run(arrived, timestamp)
        events = (*arrived, OrchestratorStarted(timestamp), *self._decisions, OrchestratorCompleted(timestamp))
        self.length += len(events)
        yield events

    def discard(self) -> None:
        """Throw the execution out of memory without visible or durable effect."""
        if self.loop.is_closed():
            return
        self._finished = True
        self.loop.discard()
        # What refers to each other is taken apart, so that nothing is left to the garbage collector.
        self.loop.forget_orchestration()
        self.context.forget_orchestration()
        self._main = None
        self._activities.clear()
        self._timers.clear()

    def report(self, problem: dict[str, Any]) -> None:
        """Pass on what a callback or a forgotten task of user code raised."""
        self.services.report(self.context, problem)

    def seconds(self, timestamp: int) -> float:
        """A time in microseconds as the loop counts it: seconds since the execution started."""
        return (timestamp - self.started.timestamp) / 1_000_000

    # --- a turn ------------------------------------------------------------------------------

    def _run(self, arrived: Sequence[ArrivedEvent], timestamp: int) -> Iterator[None]:
        self.timestamp = timestamp
        self._decisions = []
        self._turn_opening = self.length + len(arrived) + 1
        self.loop.advance_to(self.seconds(timestamp))
        for event in arrived:
            self._apply(event)
            yield None
        self._close()

    def _apply(self, event: ArrivedEvent) -> None:
        if self._finished:
            return
        self.loop.run_until_idle(lambda: self._deliver(event))
        if self._mismatch is not None:
            raise self._mismatch
        if self._main is not None and self._main.done():
            self._finish(self._main)

    def _deliver(self, event: ArrivedEvent) -> None:
        match event:
            case TaskCompleted():
                self._complete_activity(event)
            case TaskFailed():
                self._fail_activity(event)
            case TimerFired():
                handle = self._timers.pop(event.task_id, None)
                if handle is not None:
                    self.loop.make_ready(handle)
            case ExecutionStarted():
                coro = self._begin(self.context, event.input)
                # An empty context, or the orchestrator would see the host's variables.
                self._main = self.loop.create_task(coro, name="main", context=Context())  # type: ignore[assignment]

    def _complete_activity(self, event: TaskCompleted) -> None:
        future, target = self._activities.pop(event.task_id, (None, None))
        if future is None or target is None:
            return
        try:
            result = target.decode_result(event.result)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _fail_activity(self, event: TaskFailed) -> None:
        future, target = self._activities.pop(event.task_id, (None, None))
        if future is not None and target is not None:
            future.set_exception(ActivityFailedError(target.name, event.task_id, event.failure))

    def _close(self) -> None:
        """End the turn: record the timers it set, and make sure that something can wake it again."""
        timers, self.loop.new_timers = self.loop.new_timers, []
        if self._finished:
            return
        if self._custom_status is not None:
            self._decide(CustomStatusSet(self.timestamp, self._custom_status))
            self._custom_status = None
        for handle, line in timers:
            if not handle.cancelled():
                handle.task_id = self._next_task_id()
                self._timers[handle.task_id] = handle
                self._decide(TimerCreated(self.timestamp, handle.task_id, self._fire_at(handle), line))
        if not (self._activities or self._timers):
            raise self._stuck()

    def _fire_at(self, handle: Handle) -> int:
        return self.started.timestamp + ceil(min(handle.when(), _FOREVER) * 1_000_000)

    # --- the end of an execution ---------------------------------------------------------------

    def _finish(self, main: Task) -> None:
        """Record the outcome. Like ``asyncio.run``, cancel what the orchestrator left running."""
        completed = self._outcome(main)
        self._finished = True
        if self._activities or self.loop.has_leftovers():
            self.loop.run_until_idle(self._cancel_leftovers)
        if self._mismatch is not None:
            raise self._mismatch
        if self._custom_status is not None:
            self._decide(CustomStatusSet(self.timestamp, self._custom_status))
        self._timers.clear()
        self._decide(completed)

    def _outcome(self, main: Task) -> ExecutionCompleted:
        try:
            result = self.services.encode(main.result(), f"the result of orchestrator {self.started.name!r}")
        except NonDeterminismError:
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if isinstance(error, RuntimeError) and _FOREIGN_FUTURE in str(error):
                raise NonDeterminismError(
                    "the orchestrator awaited a future or task of another event loop; "
                    f"do that work in an activity ({error})"
                ) from error
            failure = FailureDetails.of(error)
            return ExecutionCompleted(self.timestamp, RuntimeStatus.FAILED.value, failure=failure)
        return ExecutionCompleted(self.timestamp, RuntimeStatus.COMPLETED.value, result=result)

    def _cancel_leftovers(self) -> None:
        for future, _ in list(self._activities.values()):
            future.cancel("the orchestrator returned")
        for task in self.loop.live_tasks():
            task.cancel("the orchestrator returned")
        self.loop.create_task(self.loop.shutdown_asyncgens())

    # --- what the context and the loop ask for -------------------------------------------------

    def call_activity(
        self, activity: ActivityTarget[Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DurableCall[Any]:
        """A call of an activity that has not started. Bad arguments fail here, with nothing scheduled."""
        target = self.services.activity(activity) if isinstance(activity, str) else activity
        payload = target.encode_arguments(args, kwargs)
        line = user_line()
        return DurableCall(f"activity {target.name!r}", lambda: self._schedule(target, payload, line))

    def _schedule(self, target: ActivityTarget[Any], payload: str, line: str | None) -> DurableFuture:
        self._refuse_when_finished(f"activity {target.name!r}")
        task_id = self._next_task_id()
        self._decide(TaskScheduled(self.timestamp, task_id, target.name, payload, target.timeout, line))
        future = DurableFuture(task_id, self._activity_cancelled, loop=self.loop)
        self._activities[task_id] = (future, target)
        return future

    def _activity_cancelled(self, task_id: int) -> None:
        if not self.loop.is_closed() and self._activities.pop(task_id, None) is not None:
            self._decide(TaskCancelRequested(self.timestamp, task_id))

    def create_timer(self, when: float) -> Future:
        """A future that the durable timer at ``when`` (loop seconds) completes."""
        self._refuse_when_finished("a timer")
        return call_later_future(self.loop, when)

    def timer_cancelled(self, task_id: int) -> None:
        """A recorded timer is given up."""
        if not self._finished and self._timers.pop(task_id, None) is not None:
            self._decide(TaskCancelRequested(self.timestamp, task_id))

    def set_custom_status(self, status: object) -> None:
        """Keep the encoded status; the turn records the last one."""
        self._custom_status = self.services.encode(status, "the custom status")

    def _refuse_when_finished(self, what: str) -> None:
        self.loop.check_not_discarded()
        if self._finished:
            raise asyncio.CancelledError(f"{what} was asked for after the orchestrator returned; await it before")

    def _next_task_id(self) -> int:
        self._last_task_id += 1
        return self._last_task_id

    # --- matching ------------------------------------------------------------------------------

    def _decide(self, decision: Decision) -> None:
        if self.is_replaying:
            position = len(self._decisions)
            recorded = self._recorded[position] if position < len(self._recorded) else None
            if recorded is None or not self._same(recorded, decision):
                # Kept as well as raised: user code that catches every exception must not hide it.
                self._mismatch = self._mismatch or self._differs(recorded, decision)
                raise self._mismatch
        self._decisions.append(decision)

    def _same(self, recorded: Decision, decided: Decision) -> bool:
        """Kind and name must agree; in strict mode everything but the stack and the source line."""
        if type(recorded) is not type(decided):
            return False
        if self._strict:
            return _comparable(recorded) == _comparable(decided)
        match recorded, decided:
            case TaskScheduled(), TaskScheduled():
                return recorded.task_id == decided.task_id and recorded.name == decided.name
            case ((TimerCreated() | TaskCancelRequested()), (TimerCreated() | TaskCancelRequested())):
                return recorded.task_id == decided.task_id
            case ExecutionCompleted(), ExecutionCompleted():
                return recorded.status == decided.status
            case _:
                return True

    def _differs(self, recorded: Decision | None, decided: Decision | None) -> NonDeterminismError:
        index = self._turn_opening + len(self._decisions)
        return NonDeterminismError(
            f"the code of orchestrator {self.started.name!r} does not do what the history of instance "
            f"{self.started.instance_id!r} records at event {index}: expected {_describe(recorded)}, "
            f"got {_describe(decided)}. Was the code changed while the instance was running, or does it "
            "depend on a clock, randomness or other outside state? Restore the old order, or version the orchestrator."
        )

    def _stuck(self) -> StuckOrchestrationError:
        waiting = "; ".join(f"{task.get_name()} at {_where(task)}" for task in self.loop.live_tasks())
        return StuckOrchestrationError(
            f"orchestrator {self.started.name!r} waits, but no activity or timer is outstanding that could wake it "
            f"(waiting: {waiting or 'nothing'}). Does it await a lock, event or future that nobody will complete?"
        )


def _comparable(decision: Decision) -> Decision:
    match decision:
        case TaskScheduled() | TimerCreated():
            return replace(decision, at=None)
        case ExecutionCompleted(failure=FailureDetails() as failure):
            return replace(decision, failure=FailureDetails(failure.error_type, failure.message))
        case _:
            return decision


def _describe(decision: Decision | None) -> str:
    match decision:
        case None:
            return "nothing more in this turn"
        case TaskScheduled():
            text = f"TaskScheduled {decision.name!r} (task {decision.task_id})"
            return f"{text} at {decision.at}" if decision.at else text
        case TimerCreated():
            text = f"TimerCreated (task {decision.task_id})"
            return f"{text} at {decision.at}" if decision.at else text
        case TaskCancelRequested():
            return f"TaskCancelRequested (task {decision.task_id})"
        case CustomStatusSet():
            return "CustomStatusSet"
        case ExecutionCompleted():
            return f"ExecutionCompleted ({decision.status})"


def _where(task: Task) -> str:
    """The innermost line of user code at which ``task`` waits."""
    place = "an unknown line"
    coro: Any = task.get_coro()
    while coro is not None:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None and is_user_module(frame.f_globals.get("__name__", "")):
            place = describe_frame(frame)
        coro = getattr(coro, "cr_await", None)
    return place
