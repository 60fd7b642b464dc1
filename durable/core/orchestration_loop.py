"""The loop of one instance: the deterministic loop, with durable timers."""

from __future__ import annotations

from asyncio import events as _events
from typing import TYPE_CHECKING, Any

from durable.core.futures import Future
from durable.core.loop import DeterministicLoop, Handle, user_line

if TYPE_CHECKING:
    from durable.core.replay import Orchestration


class OrchestrationLoop(DeterministicLoop):
    """The deterministic loop of one instance; its timers are durable."""

    def __init__(self, orchestration: Orchestration, salt: int) -> None:
        super().__init__(salt)
        self.orchestration = orchestration
        self.new_timers: list[tuple[Handle, str | None]] = []

    def add_timer(self, handle: Handle) -> None:
        self.orchestration.check_room("a timer")
        self.new_timers.append((handle, user_line()))

    def handle_cancelled(self, handle: Handle) -> None:
        if handle.task_id and not self._discarded:
            self.orchestration.timer_cancelled(handle.task_id)

    def forget_orchestration(self) -> None:
        """Let go of the orchestration, after the loop was discarded."""
        del self.orchestration

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._discarded:
            self.orchestration.report(context)


def running_orchestration() -> Orchestration | None:
    """The orchestration whose code is running in this thread, if any."""
    loop = _events._get_running_loop()
    return loop.orchestration if type(loop) is OrchestrationLoop else None


def call_later_future(loop: DeterministicLoop, when: float) -> Future:
    """A future that the loop completes at ``when``; cancelling it cancels the timer."""
    future = loop.create_future()
    handle = loop.call_at(when, _complete, future)
    future.add_done_callback(lambda _: handle.cancel())
    return future


def expire(loop: DeterministicLoop, future: Future, seconds: float, outcome: Any) -> None:
    """Complete ``future`` after that time unless it is done before: with ``outcome``, raised if it is an exception."""
    handle = loop.call_later(seconds, _complete, future, outcome)
    future.add_done_callback(lambda _: handle.cancel())


def _complete(future: Future, outcome: Any = None) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
