"""Retry policies: whether a failed call is tried again, and after which delay.

Rule of this file: arithmetic only. The time, the waiting and the random draws are handed in, so that a
retry is decided the same way at every replay.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar

from durable.core.errors import ActivityFailedError, FailureDetails, SubOrchestrationFailedError
from durable.core.events import PreviousAttempt

R = TypeVar("R")

ErrorKind: TypeAlias = type[BaseException] | str
"""An exception class, or its name with or without its module."""

_MICROSECOND = timedelta(microseconds=1)
_LONGEST = timedelta.max // _MICROSECOND
_DURATION = "a timedelta, not negative"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after which delays, a failed activity or sub-orchestration is tried again.

    ``max_attempts`` counts the first attempt, too. The delay before attempt 2 is ``first_interval``; each
    later one is ``backoff`` times the one before, and none is longer than ``max_interval``. With ``jitter``
    (0 to 1) a delay is drawn evenly from [1 - jitter, 1 + jitter] times its value, less the part of that
    range beyond ``max_interval``: so the bound holds, and delays that reached it are spread as well.
    No attempt begins later than ``timeout`` after the first one began.

    ``retry_on`` limits what is tried again, and ``non_retryable`` excludes from it; each takes exception
    classes and names, one or a tuple of them. Both look at the failure and all its causes, as
    :meth:`FailureDetails.is_caused_by` does, so a class stands for its subclasses, too. ``handler`` is asked
    last whether to try again. It runs in the orchestrator, so it must be deterministic.

    Raises:
        ValueError: a value is out of its range.
    """

    max_attempts: int = 3
    first_interval: timedelta = timedelta(seconds=1)
    backoff: float = 2.0
    max_interval: timedelta | None = None
    timeout: timedelta | None = None
    jitter: float = 0.0
    retry_on: ErrorKind | tuple[ErrorKind, ...] | None = None
    non_retryable: ErrorKind | tuple[ErrorKind, ...] = ()
    handler: Callable[[FailureDetails], bool] | None = None

    def __post_init__(self) -> None:
        is_count = isinstance(self.max_attempts, int) and self.max_attempts >= 1
        _require(is_count, "max_attempts", self.max_attempts, "a whole number, 1 or more")
        is_factor = isinstance(self.backoff, int | float) and 1 <= self.backoff < math.inf
        _require(is_factor, "backoff", self.backoff, "a finite number, 1 or more")
        is_share = isinstance(self.jitter, int | float) and 0 <= self.jitter <= 1
        _require(is_share, "jitter", self.jitter, "a number from 0 to 1")
        _require(_is_duration(self.first_interval), "first_interval", self.first_interval, _DURATION)
        for name, duration in (("max_interval", self.max_interval), ("timeout", self.timeout)):
            _require(duration is None or _is_duration(duration), name, duration, f"{_DURATION}, or None")
        if self.retry_on is not None:
            object.__setattr__(self, "retry_on", _checked_kinds("retry_on", self.retry_on))
        object.__setattr__(self, "non_retryable", _checked_kinds("non_retryable", self.non_retryable))
        is_handler = self.handler is None or callable(self.handler)
        _require(is_handler, "handler", self.handler, "a function of FailureDetails, or None")

    def next_delay(
        self, attempt: int, elapsed: timedelta, details: FailureDetails, draw: Callable[[], float]
    ) -> timedelta | None:
        """The time to wait after attempt number ``attempt`` (from 1) failed, or None to give up.

        ``elapsed`` is the time since the first attempt began. ``draw`` returns a random number from [0, 1);
        it is called when there is jitter to apply. A ``retry_after`` of the failure takes the place of the
        delay as it is: neither ``max_interval`` nor jitter changes it. What ``handler`` raises is passed on.
        """
        if attempt >= self.max_attempts or not self._may_retry(details):
            return None
        micros = details.retry_after if details.retry_after is not None else self._interval(attempt, draw)
        delay = timedelta(microseconds=micros)
        return None if self.timeout is not None and delay > self.timeout - elapsed else delay

    def _may_retry(self, details: FailureDetails) -> bool:
        if details.non_retryable or _is_any(details, self.non_retryable):
            return False
        if self.retry_on is not None and not _is_any(details, self.retry_on):
            return False
        return self.handler is None or bool(self.handler(details))

    def _interval(self, attempt: int, draw: Callable[[], float]) -> int:
        """The delay after ``attempt`` in microseconds."""
        limit = _LONGEST if self.max_interval is None else self.max_interval // _MICROSECOND
        first = self.first_interval // _MICROSECOND
        if not first:
            return 0
        try:
            interval = min(first * float(self.backoff) ** (attempt - 1), limit)
        except OverflowError:
            interval = limit
        if not self.jitter:
            return min(round(interval), limit)
        low, high = interval * (1 - self.jitter), min(interval * (1 + self.jitter), limit)
        return min(round(low + (high - low) * draw()), limit)


async def retrying(
    policy: RetryPolicy,
    attempt: Callable[[PreviousAttempt | None], Awaitable[R]],
    *,
    now: Callable[[], int],
    sleep: Callable[[float], Awaitable[object]],
    draw: Callable[[], float],
) -> R:
    """Run ``attempt`` until it succeeds or ``policy`` gives up; then its last error is raised.

    ``attempt`` is given what the attempts before it leave to it, None at first. Only the failure of an
    activity or sub-orchestration is tried again; anything else that ``attempt`` raises is passed on at once.
    ``now`` is the time in microseconds, ``sleep`` waits for seconds, ``draw`` is as for ``next_delay``.

    Raises:
        ActivityFailedError, SubOrchestrationFailedError: the last attempt failed.
    """
    began = now()
    previous: PreviousAttempt | None = None
    number = 0
    while True:
        number += 1
        try:
            return await attempt(previous)
        except (ActivityFailedError, SubOrchestrationFailedError) as error:
            delay = policy.next_delay(number, _since(began, now), error.details, draw)
            if delay is None:
                raise
            previous = _previous(number, error, previous)
            await sleep(delay.total_seconds())
            # A timer may fire late, as when no worker was up.
            if policy.timeout is not None and _since(began, now) > policy.timeout:
                raise


def _since(began: int, now: Callable[[], int]) -> timedelta:
    return timedelta(microseconds=now() - began)


def _previous(
    number: int, error: ActivityFailedError | SubOrchestrationFailedError, before: PreviousAttempt | None
) -> PreviousAttempt:
    """What is handed to the next attempt. One that reported no heartbeat leaves that of an earlier one."""
    heartbeat: str | None = getattr(error, "heartbeat", None)
    if before is None:
        return PreviousAttempt(number, error.task_id, heartbeat)
    return PreviousAttempt(number, before.first_task_id, before.heartbeat if heartbeat is None else heartbeat)


# --- kinds of errors, and what values may be -------------------------------------------------


def _as_tuple(kinds: ErrorKind | tuple[ErrorKind, ...]) -> tuple[ErrorKind, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _is_any(details: FailureDetails, kinds: ErrorKind | tuple[ErrorKind, ...]) -> bool:
    return any(details.is_caused_by(kind) for kind in _as_tuple(kinds))


def _checked_kinds(name: str, kinds: ErrorKind | tuple[ErrorKind, ...]) -> tuple[ErrorKind, ...]:
    for kind in _as_tuple(kinds):
        is_class = isinstance(kind, type) and issubclass(kind, BaseException)
        _require(is_class or (isinstance(kind, str) and bool(kind)), name, kind, "exception classes or their names")
    return _as_tuple(kinds)


def _is_duration(value: object) -> bool:
    return isinstance(value, timedelta) and value >= timedelta(0)


def _require(is_met: bool, name: str, value: object, rule: str) -> None:
    if not is_met:
        raise ValueError(f"{name} of a retry policy must be {rule}, not {value!r}")
