"""What orchestrator code sees: its context, and the loop it runs on.

Rule of this file: everything here answers from the instance's own history and turn, so that it
answers the same at every replay.
"""

from __future__ import annotations

import asyncio
from asyncio import events as _events
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload
from uuid import NAMESPACE_OID, UUID, uuid5

from durable.core.futures import Future
from durable.core.loop import DeterministicLoop, Handle, user_line

if TYPE_CHECKING:
    import logging
    from random import Random

    from durable.core.replay import Orchestration

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID_NAMESPACE = uuid5(NAMESPACE_OID, "durable.orchestration")


class ActivityTarget(Protocol[R_co]):
    """An activity as the core sees it: a name, how to write its arguments, how to read its result."""

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> int | None:
        """Microseconds one attempt may take."""
        ...

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str: ...

    def decode_result(self, payload: str) -> R_co: ...


class Services(Protocol):
    """What the shell lends to orchestrator code; the core itself has no codec, randomness or logging."""

    def activity(self, name: str) -> ActivityTarget[Any]:
        """The activity of that name, typed when it is registered here."""
        ...

    def encode(self, value: object, what: str) -> str:
        """``value`` as JSON text; ``what`` is named in the error."""
        ...

    def random(self, seed: str) -> Random: ...

    def logger(self, context: OrchestrationContext) -> logging.LoggerAdapter[logging.Logger]: ...

    def report(self, context: OrchestrationContext, problem: dict[str, Any]) -> None:
        """A callback or a forgotten task raised; ``problem`` is asyncio's exception-handler context."""
        ...


class OrchestrationLoop(DeterministicLoop):
    """The deterministic loop of one instance; its timers are durable."""

    def __init__(self, orchestration: Orchestration, salt: int) -> None:
        super().__init__(salt)
        self.orchestration = orchestration
        self.new_timers: list[tuple[Handle, str | None]] = []

    def add_timer(self, handle: Handle) -> None:
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


class OrchestrationContext:
    """An orchestrator's view of its instance. Given as the first argument, or by :meth:`current`."""

    __slots__ = ("_logger", "_orchestration", "_random", "_uuids")

    def __init__(self, orchestration: Orchestration) -> None:
        self._orchestration = orchestration
        self._uuids = 0
        self._random: Random | None = None
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None

    @staticmethod
    def current() -> OrchestrationContext:
        """The context of the orchestrator that is running, for helpers that were not handed one.

        Raises:
            RuntimeError: the caller is not running in an orchestrator.
        """
        orchestration = running_orchestration()
        if orchestration is None:
            raise RuntimeError("OrchestrationContext.current() was called outside an orchestrator")
        return orchestration.context

    def forget_orchestration(self) -> None:
        """Let go of the orchestration, after its loop was discarded."""
        del self._orchestration

    # --- who and when

    @property
    def instance_id(self) -> str:
        return self._orchestration.started.instance_id

    @property
    def execution_id(self) -> str:
        return self._orchestration.started.execution_id

    @property
    def name(self) -> str:
        """The name the orchestrator is registered under."""
        return self._orchestration.started.name

    @property
    def version(self) -> str | None:
        """The version the instance was started with."""
        return self._orchestration.started.version

    @property
    def is_replaying(self) -> bool:
        """Whether the code is catching up with recorded history rather than making it."""
        return self._orchestration.is_replaying

    @property
    def is_live(self) -> bool:
        """Whether this is the first time the code runs here: not replaying, and not being evicted."""
        orchestration: Orchestration | None = getattr(self, "_orchestration", None)  # gone once it was discarded
        return orchestration is not None and not (orchestration.is_replaying or orchestration.loop.is_closed())

    @property
    def history_length(self) -> int:
        """Events in the history before this turn."""
        return self._orchestration.length

    @property
    def now(self) -> datetime:
        """The time of this turn, UTC; it stands still between awaits and is the same at every replay."""
        return _EPOCH + timedelta(microseconds=self._orchestration.timestamp)

    current_utc_datetime = now

    # --- deterministic stand-ins

    def new_uuid(self) -> UUID:
        """A UUID that is new to this execution and the same at every replay (version 5)."""
        self._uuids += 1
        return uuid5(_UUID_NAMESPACE, f"{self.instance_id}/{self.execution_id}/{self._uuids}")

    @property
    def random(self) -> Random:
        """A random generator seeded by the execution: the same numbers at every replay."""
        if self._random is None:
            self._random = self._orchestration.services.random(f"{self.instance_id}/{self.execution_id}")
        return self._random

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that is silent while replaying and adds the instance id."""
        if self._logger is None:
            self._logger = self._orchestration.services.logger(self)
        return self._logger

    # --- durable operations

    @overload
    def call_activity(self, activity: ActivityTarget[R], *args: Any, **kwargs: Any) -> asyncio.Future[R]: ...
    @overload
    def call_activity(self, activity: str, *args: Any, **kwargs: Any) -> asyncio.Future[Any]: ...
    def call_activity(self, activity: ActivityTarget[Any] | str, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Schedule an activity now and return the future of its result.

        Raises PayloadError when an argument cannot be written as JSON or does not fit its annotation.
        """
        return self._orchestration.call_activity(activity, args, kwargs).start()

    def create_timer(self, fire: datetime | timedelta) -> asyncio.Future[None]:
        """A future that is done at ``fire``, a time (with a time zone) or a duration from now.

        A time in the past is done at once. Cancel the future to give the timer up.
        """
        return self._orchestration.create_timer(self._seconds(fire))

    def set_custom_status(self, status: object) -> None:
        """Show ``status`` (anything JSON can hold) to clients as soon as this turn is committed."""
        self._orchestration.set_custom_status(status)

    def _seconds(self, fire: datetime | timedelta) -> float:
        if isinstance(fire, timedelta):
            return self._orchestration.loop.time() + fire.total_seconds()
        if fire.tzinfo is None:
            raise ValueError(f"timer date {fire!r} has no time zone; use a UTC datetime such as ctx.now + delay")
        micros = (fire - _EPOCH) // timedelta(microseconds=1)
        return self._orchestration.seconds(micros)


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


def _complete(future: Future) -> None:
    if not future.done():
        future.set_result(None)
