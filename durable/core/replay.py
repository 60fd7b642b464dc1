"""Replay: an orchestrator's code driven by events, and the decisions it comes to.

Rule of this file: live and replay take the same path - apply one event, run the loop until it
is idle, next event. Replaying differs in one thing only: each decision must equal the
recorded one. The caller owns storage, time and all effects. What the code can ask for is in ``operations.py``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Sequence
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

from durable.core import events as ev
from durable.core.closing import asked_no_code
from durable.core.context import OrchestrationContext
from durable.core.errors import FailureDetails, NonDeterminismError, StuckOrchestrationError
from durable.core.futures import Task
from durable.core.ids import hash_salt, next_execution_id
from durable.core.matching import describe_decision, same_decision
from durable.core.operations import Operations
from durable.core.orchestration_loop import OrchestrationLoop
from durable.core.outstanding import MAX_TASKS
from durable.core.refusals import describe_frame, is_user_module
from durable.core.services import Services
from durable.core.state import RuntimeStatus
from durable.core.turns import RecordedTurn

Begin: TypeAlias = Callable[[OrchestrationContext, str], Coroutine[Any, Any, Any]]
"""Makes the orchestrator's coroutine from its context and its encoded arguments."""

_AT_ONCE = 8
"""Events between two pauses. They are not timed here: one whose code takes long is to be seen by the caller soon."""

_FOREIGN_FUTURE = "attached to a different loop"

T = TypeVar("T")


class _End:
    """What stands for the end of an iterator."""


_END = _End()


class Orchestration(Operations):
    """One execution of an orchestrator, live in memory.

    Feed it turns, first the recorded ones by :meth:`replay`, then new ones by :meth:`turn`. Both are
    iterators that pause after every few events, so that the caller can let its host breathe. When one
    raises, the object is of no use any more: discard it and start again from history.
    """

    def __init__(self, started: ev.ExecutionStarted, begin: Begin, services: Services, *, strict: bool = False) -> None:
        loop = OrchestrationLoop(self, hash_salt(started.instance_id))  # type: ignore[abstract]  # the rest refuses
        super().__init__(started, services, loop)
        self.context = OrchestrationContext(self)
        self.length = 0
        self._begin = begin
        self._strict = strict
        self._main: Task | None = None
        self._cancel: ev.ExecutionCancelRequested | None = None
        self._held: list[ev.ArrivedEvent] | None = None  # what arrived while suspended
        self._due: Collection[ev.ArrivedEvent] = ()  # to be applied next: one event, or what was held
        self._decisions: list[ev.Decision] = []
        self._turn_opening = 0
        self._recorded: Sequence[ev.Decision] = ()
        self._mismatch: NonDeterminismError | None = None

    # --- for the engine ----------------------------------------------------------------------

    def replay(self, turns: Iterable[RecordedTurn]) -> Iterator[None]:
        """Run recorded turns again, comparing what the code decides with what it decided then.

        Raises:
            NonDeterminismError: a decision differs; the message says what was expected and where.
        """
        return self._several_at_once(self._replayed(turns))

    def _replayed(self, turns: Iterable[RecordedTurn]) -> Iterator[None]:
        self.is_replaying = True
        for turn in turns:
            if asked_no_code(turn):
                break  # it was ended without its code
            self._recorded = turn.decisions
            applied = yield from self._take_in(turn.arrived, turn.timestamp)
            self.length += applied + len(self._decisions) + 2  # and the rows at the turn's begin and end
            if len(self._decisions) < len(turn.decisions):
                raise self._differs(turn.decisions[len(self._decisions)], None)
            yield None
        self.is_replaying = False

    def turn(self, arrived: Sequence[ev.ArrivedEvent], timestamp: int) -> Iterator[tuple[ev.HistoryEvent, ...] | None]:
        """Run a new turn at ``timestamp``; the last item of the iterator is the turn's events, to be committed.

        Of ``arrived`` these hold what was taken in: all of it, or what came before the execution ended.

        Raises:
            NonDeterminismError: the code did what an orchestrator must not do.
            StuckOrchestrationError: it waits for nothing that could ever happen.
            RunawayTurnError: it does not come to rest.
        """
        steps = self._run(arrived, timestamp)
        return steps if len(arrived) == 1 else self._several_at_once(steps)

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
        self.forget_operations()

    def report(self, problem: dict[str, Any]) -> None:
        """Pass on what a callback or a forgotten task of user code raised."""
        self.services.report(self.context, problem)

    def _several_at_once(self, steps: Iterator[T | None]) -> Iterator[T | None]:
        """``steps``, with a pause after every few events or a result: a pause costs as much as a short turn."""

        def some() -> T | _End | None:
            for _ in range(_AT_ONCE):
                step = next(steps, _END)
                if step is not None:
                    return step
            return None

        while not isinstance(step := self.loop.run_together(some), _End):
            yield step

    # --- a turn ------------------------------------------------------------------------------

    def _run(self, arrived: Sequence[ev.ArrivedEvent], timestamp: int) -> Iterator[tuple[ev.HistoryEvent, ...] | None]:
        applied = yield from self._take_in(arrived, timestamp)
        started, completed = ev.OrchestratorStarted(timestamp), ev.OrchestratorCompleted(timestamp)
        events = (*arrived[:applied], started, *self._decisions, completed)
        self.length += len(events)
        yield events

    def _take_in(self, arrived: Sequence[ev.ArrivedEvent], timestamp: int) -> Generator[None, None, int]:
        """Run the code with what arrived; pauses between events. Returns how many were taken in."""
        self.timestamp = timestamp
        self._decisions = []
        self.requests_left = MAX_TASKS
        self._turn_opening = self.length + len(arrived) + 1
        self.loop.advance_to(self.seconds(timestamp))
        applied = 0
        for event in arrived:
            if self._finished:
                break  # what came after the end is not taken in; it may be for the next execution
            if applied:
                yield None
            applied += 1
            if self._held is None and type(event) is not ev.ExecutionSuspended:
                self._apply(event)
                continue
            due = self._due = deque(self._admitted(event))
            while due:
                self._apply(due.popleft())
                yield None
        self._close()
        return applied

    def _admitted(self, event: ev.ArrivedEvent) -> Sequence[ev.ArrivedEvent]:
        """What is to be applied now: while suspended nothing, after that what was held back meanwhile."""
        kind = type(event)
        if kind is ev.ExecutionResumed:
            held, self._held = self._held or (), None
            return held
        if self._held is not None:
            self._held.append(event)
        elif kind is ev.ExecutionSuspended:
            self._held = []
        else:
            return (event,)
        return ()

    def _apply(self, event: ev.ArrivedEvent) -> None:
        if self._finished:
            return
        self.loop.run_until_idle(self._deliver, event)
        if self._mismatch is not None:
            raise self._mismatch
        if self._main is not None and self._main.done():
            self._finish(self._main)

    def _deliver(self, event: ev.ArrivedEvent) -> None:
        match event:
            case ev.TaskCompleted() | ev.SubOrchestrationInstanceCompleted() | ev.EntityOperationCompleted():
                self.complete_call(event.task_id, event.result)
            case ev.TaskFailed() | ev.SubOrchestrationInstanceFailed() | ev.EntityOperationFailed():
                self.fail_call(event)
            case ev.TimerFired():
                self.fire_timer(event.task_id)
            case ev.EventRaised():
                self.external.deliver(event)
            case ev.EntityLockGranted():
                self.grant_locks(event.task_id)
            case ev.ExecutionStarted():
                coro = self._begin(self.context, event.input)
                # An empty context, or the orchestrator would see the host's variables.
                self._main = self.loop.create_task(coro, name="main", context=Context())  # type: ignore[assignment]
            case ev.ExecutionForked():
                self.go_on_as(event)
            case ev.ExecutionCancelRequested() if self._main is not None:
                self._cancel = event
                self._main.cancel(event.reason)
            case _:
                pass  # TaskDeferred: the engine's business

    def _close(self) -> None:
        """End the turn: record the timers it set, and make sure that something can wake it again."""
        if self._finished:
            return
        self.record_at_rest()
        if not (self._calls or self._timers or self.external.awaited or self._held is not None):
            raise self._stuck()

    # --- the end of an execution ---------------------------------------------------------------

    def _finish(self, main: Task) -> None:
        """Record the outcome. Like ``asyncio.run``, cancel what the orchestrator left running."""
        completed = self._outcome(main)
        self._finished = True
        if self.has_calls or self.loop.has_leftovers():
            self.loop.run_until_idle(self._cancel_leftovers)
        if self._mismatch is not None:
            raise self._mismatch
        self.release_held_locks()
        self.record_status()
        self.decide(completed)

    def _outcome(self, main: Task) -> ev.Decision:
        now = self.timestamp
        if self.successor is not None:
            if not main.cancelled():
                main.exception()  # looked at, or asyncio would report it as forgotten
            payload, keep = self.successor
            next_id = next_execution_id(self.started.execution_id)
            return ev.ContinueAsNew(now, next_id, payload, self._unclaimed(keep))
        if self._cancel is not None and self._cancel.terminate_with is not None:
            if not main.cancelled():
                main.exception()
            return ev.ExecutionCompleted(now, RuntimeStatus.TERMINATED.value, result=self._cancel.terminate_with)
        try:
            result = self.services.encode(main.result(), f"the result of orchestrator {self.started.name!r}")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            _raise_refusal(error)
            if isinstance(error, RuntimeError) and _FOREIGN_FUTURE in str(error):
                raise NonDeterminismError(
                    "the orchestrator awaited a future or task of another event loop; "
                    f"do that work in an activity ({error})"
                ) from error
            failure = FailureDetails.of(error)
            canceled = self._cancel is not None and isinstance(error, asyncio.CancelledError)
            status = RuntimeStatus.CANCELED if canceled else RuntimeStatus.FAILED
            return ev.ExecutionCompleted(now, status.value, failure=failure)
        return ev.ExecutionCompleted(now, RuntimeStatus.COMPLETED.value, result=result)

    def _unclaimed(self, keep: bool) -> tuple[ev.Kept, ...]:
        """What goes along: events that nobody waited for, if they are to be kept, and what was held back till now."""
        events = self.external.unclaimed() if keep else ()
        return *events, *(
            event for event in self._due if isinstance(event, ev.EventRaised | ev.ExecutionCancelRequested)
        )

    def _cancel_leftovers(self) -> None:
        self.cancel_calls()
        for task in self.loop.live_tasks():
            task.cancel("the orchestrator returned")
        self.loop.create_task(self.loop.shutdown_asyncgens())

    def cancel_main(self, reason: str) -> None:
        """Cancel the orchestrator's own task, unless it is the one that asks."""
        if self._main is not None and asyncio.current_task(self.loop) is not self._main:
            self._main.cancel(reason)

    # --- matching ------------------------------------------------------------------------------

    def next_recorded(self) -> ev.Decision | None:
        """In replay, the decision that comes next in this turn."""
        position = len(self._decisions)
        return self._recorded[position] if self.is_replaying and position < len(self._recorded) else None

    def recalls_task(self, task_id: int, name: str) -> bool:
        """In replay, take the recorded decision down if it is this task, by what ``matching`` has for its identity.

        This is :meth:`decide` without an event to compare; never where that is strict, and looks at more of it.
        """
        recorded = self.next_recorded()
        if self._strict or type(recorded) is not ev.TaskScheduled:
            return False
        if recorded.task_id != task_id or recorded.name != name:
            return False
        self._decisions.append(recorded)
        return True

    def decide(self, decision: ev.Decision) -> None:
        """Take a decision down; in replay it must be the recorded one.

        Raises:
            NonDeterminismError: it is not.
        """
        if self.is_replaying:
            position = len(self._decisions)
            recorded = self._recorded[position] if position < len(self._recorded) else None
            if recorded is None or not same_decision(recorded, decision, strict=self._strict):
                # Kept as well as raised: user code that catches every exception must not hide it.
                self._mismatch = self._mismatch or self._differs(recorded, decision)
                raise self._mismatch
        self._decisions.append(decision)

    def _differs(self, recorded: ev.Decision | None, decided: ev.Decision | None) -> NonDeterminismError:
        index = self._turn_opening + len(self._decisions)
        return NonDeterminismError(
            f"the code of orchestrator {self.started.name!r} does not do what the history of instance "
            f"{self.started.instance_id!r} records at event {index}: expected {describe_decision(recorded)}, "
            f"got {describe_decision(decided)}. Was the code changed while the instance was running, or does it "
            "depend on a clock, randomness or other outside state? Restore the old order, or version the orchestrator."
        )

    def _stuck(self) -> StuckOrchestrationError:
        waiting = "; ".join(f"{task.get_name()} at {_where(task)}" for task in self.loop.live_tasks())
        return StuckOrchestrationError(
            f"orchestrator {self.started.name!r} waits, but nothing is outstanding that could wake it: no activity, "
            f"timer, sub-orchestration, entity or external event (waiting: {waiting or 'nothing'}). "
            "Does it await a lock, event or future that nobody will complete?"
        )


def _raise_refusal(error: BaseException) -> None:
    """What parks the instance is raised as it is, also when a task group has wrapped it."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _raise_refusal(inner)
    elif isinstance(error, NonDeterminismError):
        raise error


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
