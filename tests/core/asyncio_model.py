"""What an orchestrator is meant to do, said with plain asyncio: futures that are completed one after the other.

Rule of this file: nothing of the engine but the event loop in virtual time, its errors and its events. Where the
engine has decisions the model has tuples, ``(kind, task id, ...)``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NoReturn, TypeAlias

from durable.core import events as ev
from durable.core.errors import (
    ActivityFailedError,
    EntityOperationFailedError,
    PayloadError,
    SubOrchestrationFailedError,
)
from durable.core.futures import Future, Task
from durable.core.loop import Handle
from durable.testing.virtual_loop import VirtualLoop

Command: TypeAlias = tuple[Any, ...]


class StuckModelError(Exception):
    """Nothing is outstanding that could wake the program."""


class ModelLoop(VirtualLoop):
    """A loop whose time passes when it is told to, and which returns when nothing is ready."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self.new_timers: list[Handle] = []
        self.broken: list[BaseException] = []
        self._all: list[Task] = []  # or forgotten ones would end when the garbage collector comes by
        self.set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context:  # a callback raised: the model is wrong. Forgotten errors of tasks are the program's.
            self.broken.append(context["exception"])

    def settle(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` and all that follows from it."""
        self.call_soon(callback)
        self.run_forever()
        for error in self.broken:
            raise error

    def _remember(self, task: Task) -> None:
        self._all.append(task)

    def _jump(self) -> None:
        self.stop()

    def add_timer(self, handle: Handle) -> None:
        self.new_timers.append(handle)

    def handle_cancelled(self, handle: Handle) -> None:
        self._model.timer_given_up(handle)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None, **kwargs: Any
    ) -> Any:
        if isinstance(coro, Lazy):
            return coro.start()
        return super().create_task(coro, name=name, context=context, **kwargs)


class Promise(Future):
    """A future that tells the model when it is given up."""

    def __init__(self, model: Model, task_id: int) -> None:
        super().__init__(loop=model.loop)
        self._model = model
        self._task_id = task_id

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self._model.given_up(self._task_id)
        return super().cancel(msg)

    def set_name(self, value: object) -> None:
        """Task groups name their tasks."""


class Lazy(Coroutine[Any, Any, Any]):
    """A call that begins when it is awaited, or made a task; then it is a promise."""

    def __init__(self, start: Callable[[], Promise]) -> None:
        self.start = start

    def __await__(self) -> Any:
        return self.start().__await__()

    def send(self, value: Any) -> NoReturn:
        raise AssertionError("nobody drives it by hand")

    def throw(self, *error: Any) -> NoReturn:
        raise AssertionError("nobody drives it by hand")

    def close(self) -> None:
        """It holds nothing."""


@dataclass
class Held:
    """A critical section: its entities, whether it has their locks, and which of them a call in it is asking."""

    task_id: int
    entity_ids: tuple[str, ...]
    granted: bool = False
    calling: dict[str, int] = field(default_factory=dict)


@dataclass
class Question:
    """What is not answered yet; ``detail`` is a child's close policy or an entity's id."""

    kind: str
    promise: Promise
    detail: str = ""


class Model:
    """One execution: it takes turns, and says what the program asked for in each.

    What programs ask for is in ``plain_context.py``.
    """

    def __init__(self, main: Callable[[Model], Coroutine[Any, Any, Any]], start: int) -> None:
        self.loop = ModelLoop(self)
        self._begin = main
        self._main: asyncio.Task[Any] | None = None
        self._start = self._now = start
        self.commands: list[Command] = []
        self.taken = 0
        self.ended = False
        self.held: list[ev.ArrivedEvent] | None = None
        self.questions: dict[int, Question] = {}
        self.timers: dict[int, Handle] = {}
        self.section: Held | None = None
        self._due: list[ev.ArrivedEvent] = []
        self._ids = 0
        self._waiters: list[tuple[str, Future]] = []
        self._kept: list[ev.EventRaised] = []
        self._status: int | None = None
        self._successor: tuple[Any, bool] | None = None
        self._cancelled = False

    # --- turns ---------------------------------------------------------------------------------------

    def turn(self, arrived: Sequence[ev.ArrivedEvent], now: int) -> list[Command]:
        """Apply events, each until nothing is ready. Raises StuckModelError when nothing could wake the program."""
        self._now, self.commands, self.taken = now, [], 0
        self.loop.advance_to((now - self._start) / 1_000_000)
        for event in arrived:
            if self.ended:
                break
            self.taken += 1
            self._due += self._admitted(event)
            while self._due:
                self._apply(self._due.pop(0))
        if not self.ended:
            self._rest()
        return self.commands

    def close(self) -> None:
        """End what still runs."""
        self.loop.discard()

    def _admitted(self, event: ev.ArrivedEvent) -> list[ev.ArrivedEvent]:
        if isinstance(event, ev.ExecutionResumed):
            held, self.held = self.held or [], None
            return held
        if self.held is not None:
            self.held.append(event)
            return []
        if isinstance(event, ev.ExecutionSuspended):
            self.held = []
            return []
        return [event]

    def _apply(self, event: ev.ArrivedEvent) -> None:
        if not self.ended:
            self.loop.settle(lambda: self._deliver(event))
            if self._main is not None and self._main.done():
                self._finish(self._main)

    def _deliver(self, event: Any) -> None:
        match event:
            case ev.ExecutionStarted():
                self._main = self.loop.create_task(self._begin(self))
            case ev.ExecutionCancelRequested():
                self._cancelled = True
                assert self._main is not None
                self._main.cancel(event.reason)
            case ev.EventRaised():
                self._raise(event)
            case ev.TimerFired():
                if (handle := self.timers.pop(event.task_id, None)) is not None:
                    self.loop.make_ready(handle)
            case ev.TaskDeferred() | ev.ExecutionSuspended():  # the latter while suspended already
                pass
            case _:
                if (question := self._closed(event.task_id)) is not None:
                    self._answer(question, event)

    def _answer(self, question: Question, event: Any) -> None:
        promise, failure = question.promise, getattr(event, "failure", None)
        if isinstance(event, ev.EntityLockGranted):
            assert self.section is not None
            self.section.granted = True
            promise.set_result(None)
        elif question.kind == "entity":
            error = EntityOperationFailedError(question.detail, "take", event.task_id, failure) if failure else None
            _settle(promise, error, getattr(event, "result", ""), None)
        elif question.kind == "child":
            failed = SubOrchestrationFailedError("child", "", event.task_id, failure) if failure else None
            _settle(promise, failed, getattr(event, "result", ""), int)
        else:
            wrong = ActivityFailedError("step", event.task_id, failure) if failure else None
            _settle(promise, wrong, getattr(event, "result", ""), int)

    def _raise(self, event: ev.EventRaised) -> None:
        for waiter in self._waiters:
            name, future = waiter
            if name == event.name.lower() and not future.done():
                self._waiters.remove(waiter)
                self._take(future, event)
                return
        self._kept.append(event)

    def _take(self, future: Future, event: ev.EventRaised) -> None:
        _settle(future, None, event.input, int)

    def _rest(self) -> None:
        self._say_status()
        timers, self.loop.new_timers = self.loop.new_timers, []
        for handle in timers:
            if not handle.cancelled():
                task_id = self._next_id()
                self.timers[task_id] = handle
                self._say("timer", task_id, self.fire_at(handle))
        waiting = any(not future.done() for _, future in self._waiters)
        if not (self.questions or self.timers or waiting or self.held is not None):
            raise StuckModelError

    def fire_at(self, handle: Handle) -> int:
        """When a timer is due, in microseconds."""
        return self._start + ceil(handle.when() * 1_000_000)

    def _finish(self, main: asyncio.Task[Any]) -> None:
        end = self._end(main)
        self.ended = True
        self.loop.settle(self._give_up_all)
        if self.section is not None:
            self._unlock(self.section)
        self._say_status()
        self.commands.append(end)

    def _end(self, main: asyncio.Task[Any]) -> Command:
        error = asyncio.CancelledError() if main.cancelled() else main.exception()
        if self._successor is not None:
            arguments, keep = self._successor
            kept = [*(self._kept if keep else []), *self._due]
            wanted = (ev.EventRaised, ev.ExecutionCancelRequested)
            return "continue_as_new", arguments, [one for one in kept if isinstance(one, wanted)]
        if error is None:
            return "end", "Completed", main.result()
        canceled = self._cancelled and isinstance(error, asyncio.CancelledError)
        return "end", "Canceled" if canceled else "Failed", type(error).__name__

    def _give_up_all(self) -> None:
        for question in list(self.questions.values()):
            question.promise.cancel()
        for task in self.loop.live_tasks():
            task.cancel()
        self.loop.create_task(self.loop.shutdown_asyncgens())

    def given_up(self, task_id: int) -> None:
        """A promise is cancelled by those who waited for it."""
        question = self._closed(task_id)
        if question is None or question.kind == "lock":
            return
        if not self.ended or question.kind == "activity":
            self._say("cancel", task_id, False)
        elif question.kind == "child" and question.detail != "abandon":
            self._say("cancel", task_id, question.detail == "terminate")

    def timer_given_up(self, handle: Handle) -> None:
        """A timer's handle is cancelled."""
        for task_id, known in list(self.timers.items()):
            if known is handle:
                del self.timers[task_id]
                if not self.ended:
                    self._say("cancel", task_id, False)

    def _closed(self, task_id: int) -> Question | None:
        if self.section is not None:
            self.section.calling = {key: one for key, one in self.section.calling.items() if one != task_id}
        return self.questions.pop(task_id, None)

    def _unlock(self, section: Held) -> None:
        self.section = None
        self.questions.pop(section.task_id, None)
        for entity_id in section.entity_ids:
            self._say("unlock", section.task_id, entity_id)

    def _say(self, *command: Any) -> None:
        self.commands.append(command)

    def _say_status(self) -> None:
        if self._status is not None:
            self._say("status", self._status)
            self._status = None

    def _next_id(self) -> int:
        if self.ended:
            raise asyncio.CancelledError
        self._ids += 1
        return self._ids

    def _ask(self, kind: str, task_id: int, detail: str = "") -> Promise:
        self.questions[task_id] = Question(kind, Promise(self, task_id), detail)
        return self.questions[task_id].promise


def _settle(future: Future, error: Exception | None, payload: str, kind: type[Any] | None) -> None:
    """Complete a future with an error, or with a JSON value if it is of that kind."""
    value = None if error else json.loads(payload)
    if error is None and kind is not None and not isinstance(value, kind):
        error = PayloadError(payload)
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
