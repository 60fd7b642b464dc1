"""A deterministic loop to be run in turns by a test; its timers fire when the test says so."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from durable.core.futures import DurableCall, DurableFuture
from durable.core.loop import DeterministicLoop, Handle


class NestedLoop(DeterministicLoop):
    """``run`` starts a coroutine in a turn; ``fire`` is a turn in which the timers set so far fire."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__(salt)
        self.timers: list[Handle] = []
        self.problems: list[dict[str, Any]] = []
        self.cancelled_calls: list[int] = []

    def add_timer(self, handle: Handle) -> None:
        self.timers.append(handle)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def start(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run a turn in which a task of ``coro`` starts, and return the task."""
        tasks: list[Any] = []
        self.run_until_idle(lambda: tasks.append(self.create_task(coro)))
        return tasks[0]

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """The result of ``coro``, with timers fired as long as it waits for them."""
        task = self.start(coro)
        while not task.done():
            assert self.timers, f"{task!r} waits for nothing"
            self.fire()
        return task.result()

    def fire(self) -> None:
        due, self.timers = sorted(self.timers, key=Handle.when), []
        for handle in due:
            self.run_until_idle(lambda handle=handle: self.make_ready(handle))

    def call(self, task_id: int, started: list[DurableFuture] | None = None) -> DurableCall[Any]:
        """A call as an activity's; the future it starts is appended to ``started``."""

        def start() -> DurableFuture:
            self.check_not_discarded()
            future = DurableFuture(task_id, self.cancelled_calls.append, loop=self)
            if started is not None:
                started.append(future)
            return future

        return DurableCall(start, "activity {}", task_id)

    def complete(self, future: DurableFuture, result: object) -> None:
        """A turn that brings the outcome of a call."""
        self.run_until_idle(lambda: None if future.done() else future.set_result(result))


def make_loop(salt: int = 0) -> NestedLoop:
    return NestedLoop(salt)  # type: ignore[abstract]  # the other methods refuse
