"""Retry policies: which failures are tried again, after which delay, and the loop that does it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.core.errors import (
    ActivityFailedError,
    FailureDetails,
    NonRetryableError,
    RetryableError,
    SubOrchestrationFailedError,
)
from durable.core.events import PreviousAttempt
from durable.core.retry import RetryPolicy, retrying
from durable.testing import VirtualLoop

MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
ALWAYS = 10**12
FAILURE = FailureDetails("builtins.OSError", "no route", cause=FailureDetails("shop.errors.Busy", "try later"))

durations = st.timedeltas(timedelta(0), timedelta(days=400))
backoffs = st.floats(1, 1e6) | st.floats(1, 3)
attempts = st.integers(1, 40) | st.integers(1, 10**9)
draws = st.floats(0, 1, exclude_max=True)


def no_draw() -> float:
    raise AssertionError("nothing is to be drawn without jitter")


def delay(
    policy: RetryPolicy,
    attempt: int = 1,
    *,
    elapsed: timedelta = timedelta(0),
    details: FailureDetails = FAILURE,
    draw: Callable[[], float] = no_draw,
) -> timedelta | None:
    return policy.next_delay(attempt, elapsed, details, draw)


def some(value: timedelta | None) -> timedelta:
    assert value is not None
    return value


# --- the arithmetic ---------------------------------------------------------------------------


def test_delays_grow_by_the_factor_up_to_the_longest() -> None:
    policy = RetryPolicy(max_attempts=6, backoff=3.0, max_interval=timedelta(seconds=20))
    assert [delay(policy, n) for n in range(1, 7)] == [SECOND, 3 * SECOND, 9 * SECOND, 20 * SECOND, 20 * SECOND, None]


@given(durations, backoffs, attempts)
def test_delays_never_shrink(first: timedelta, backoff: float, attempt: int) -> None:
    policy = RetryPolicy(ALWAYS, first, backoff)
    assert first <= some(delay(policy, attempt)) <= some(delay(policy, attempt + 1))


@given(durations, backoffs, attempts, durations, st.floats(0, 1), draws)
def test_delays_stay_in_their_range(
    first: timedelta, backoff: float, attempt: int, longest: timedelta, jitter: float, drawn: float
) -> None:
    exact = some(delay(RetryPolicy(ALWAYS, first, backoff, longest), attempt))
    given_delay = some(delay(RetryPolicy(ALWAYS, first, backoff, longest, jitter=jitter), attempt, draw=lambda: drawn))
    assert exact == min(longest, some(delay(RetryPolicy(ALWAYS, first, backoff), attempt)))
    assert exact * (1 - jitter) - MICROSECOND <= given_delay <= min(longest, exact * (1 + jitter) + MICROSECOND)


@given(durations, backoffs, attempts, durations, durations, st.none() | st.integers(0, 10**14))
def test_no_attempt_begins_after_the_timeout(
    first: timedelta, backoff: float, attempt: int, timeout: timedelta, elapsed: timedelta, retry_after: int | None
) -> None:
    details = FailureDetails("a.B", "", retry_after=retry_after)
    unbounded = some(delay(RetryPolicy(ALWAYS, first, backoff), attempt, details=details))
    bounded = delay(RetryPolicy(ALWAYS, first, backoff, timeout=timeout), attempt, elapsed=elapsed, details=details)
    # By subtraction: the sum may be more than a timedelta can hold.
    assert bounded == (unbounded if unbounded <= timeout - elapsed else None)


@pytest.mark.parametrize("backoff", [1e300, 10**300, 1.5])
@pytest.mark.parametrize("first", [MICROSECOND, timedelta.max])
def test_what_is_too_large_to_count_is_the_longest_delay(first: timedelta, backoff: float) -> None:
    unlimited = RetryPolicy(ALWAYS, first, backoff, timeout=timedelta.max)
    assert delay(unlimited, 10**9) == timedelta.max
    assert delay(unlimited, 10**9, elapsed=SECOND) is None
    assert delay(RetryPolicy(ALWAYS, first, backoff, max_interval=SECOND), 10**9) == SECOND
    assert some(delay(RetryPolicy(ALWAYS, first, backoff, jitter=1), 10**9, draw=lambda: 0.999)) <= timedelta.max


def test_no_interval_is_no_delay() -> None:
    assert delay(RetryPolicy(ALWAYS, timedelta(0), 1e300), 10**9) == timedelta(0)


def test_jitter_spreads_delays_at_the_bound_too() -> None:
    policy = RetryPolicy(ALWAYS, 10 * SECOND, 1, jitter=0.5)
    bounded = RetryPolicy(ALWAYS, 10 * SECOND, 1, max_interval=10 * SECOND, jitter=0.5)
    for drawn, free, held in ((0.0, 5, 5), (0.5, 10, 7.5), (1.0, 15, 10)):
        draw = [drawn, drawn].pop
        assert delay(policy, draw=draw) == free * SECOND
        assert delay(bounded, draw=draw) == held * SECOND


# --- which failures ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "is_retried"),
    [
        ({}, True),
        ({"retry_on": OSError}, True),
        ({"retry_on": "OSError"}, True),
        ({"retry_on": (ValueError, "shop.errors.Busy")}, True),
        ({"retry_on": ValueError}, False),
        ({"retry_on": ()}, False),
        ({"non_retryable": ValueError}, True),
        ({"non_retryable": "Busy"}, False),
        ({"non_retryable": (ValueError, OSError)}, False),
        ({"retry_on": OSError, "non_retryable": "Busy"}, False),
        ({"handler": lambda details: details.message == "no route"}, True),
        ({"handler": lambda details: details.message != "no route"}, False),
        ({"handler": lambda details: True, "retry_on": ValueError}, False),
        ({"max_attempts": 1}, False),
    ],
)
def test_failures_are_chosen_by_their_kind_and_their_causes(options: Any, is_retried: bool) -> None:
    assert (delay(RetryPolicy(**options)) is not None) is is_retried


def test_a_single_kind_is_a_tuple_of_one() -> None:
    assert RetryPolicy(retry_on=OSError, non_retryable="Busy") == RetryPolicy(
        retry_on=(OSError,), non_retryable=("Busy",)
    )


def test_what_the_activity_asked_for_counts_before_the_policy() -> None:
    policy = RetryPolicy(max_interval=2 * SECOND, jitter=1, retry_on=OSError)
    never = FailureDetails("builtins.OSError", "", non_retryable=True, retry_after=5)
    later = FailureDetails("builtins.OSError", "", retry_after=60_000_000)
    assert delay(policy, details=never) is None
    assert delay(policy, details=later) == 60 * SECOND  # neither bounded nor spread
    assert delay(policy, 3, details=later) is None
    assert delay(RetryPolicy(retry_on=ValueError), details=later) is None


class OutOfStockError(NonRetryableError):
    pass


class ThrottledError(RetryableError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s", retry_after=seconds)


def test_errors_say_how_they_are_to_be_retried() -> None:
    assert FailureDetails.of(OutOfStockError("none left")).non_retryable is True
    assert FailureDetails.of(ThrottledError(1.5)).retry_after == 1_500_000
    assert FailureDetails.of(RetryableError("x", retry_after=timedelta(minutes=1))).retry_after == 60_000_000
    assert FailureDetails.of(RetryableError("x", retry_after=-3)).retry_after == 0
    assert FailureDetails.of(RetryableError("x")).retry_after is None
    assert str(RetryableError("x", retry_after=1)) == "x"
    plain = FailureDetails.of(ValueError("x"))
    assert (plain.non_retryable, plain.retry_after) == (None, None)


def test_only_the_error_itself_counts_not_what_it_was_raised_from() -> None:
    error = ValueError("handled")
    error.__cause__ = OutOfStockError("none left")
    details = FailureDetails.of(error)
    assert details.non_retryable is None
    assert details.cause is not None
    assert details.cause.non_retryable is True
    assert delay(RetryPolicy(), details=details) == SECOND


@pytest.mark.parametrize("wait", [math.nan, math.inf, 1e300, timedelta.max])
def test_a_wait_that_cannot_be_stored_is_refused(wait: Any) -> None:
    with pytest.raises(ValueError, match="retry_after must be a time of at most"):
        RetryableError("x", retry_after=wait)


@pytest.mark.parametrize(
    "options",
    [
        *({"max_attempts": value} for value in (0, -1, 1.5, "3")),
        *({"first_interval": value} for value in (-SECOND, 5, None)),
        *({"backoff": value} for value in (0.99, math.nan, math.inf, "2")),
        *({"max_interval": value} for value in (-SECOND, 5)),
        *({"timeout": value} for value in (-SECOND, 5.0)),
        *({"jitter": value} for value in (-0.1, 1.1, math.nan, None)),
        *({"retry_on": value} for value in (3, (int,), "", [OSError], OSError())),
        *({"non_retryable": value} for value in (None, (OSError, object))),
        {"handler": True},
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} of a retry policy must be .+, not .+"):
        RetryPolicy(**options)


# --- the loop ---------------------------------------------------------------------------------


def failed(task_id: int, details: FailureDetails = FAILURE, heartbeat: str | None = None) -> ActivityFailedError:
    return ActivityFailedError("book", task_id, details, heartbeat)


class Attempts:
    """Attempts that meet the errors given, then succeed; with what each was given, and when."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.seen: list[tuple[float, PreviousAttempt | None]] = []

    async def __call__(self, previous: PreviousAttempt | None) -> str:
        self.seen.append((asyncio.get_running_loop().time(), previous))
        await asyncio.sleep(0.5)
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def run(self, policy: RetryPolicy, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> str:
        async def main() -> str:
            now = asyncio.get_running_loop().time
            return await retrying(policy, self, now=lambda: round(now() * 1_000_000), sleep=sleep, draw=no_draw)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(main())


def test_the_next_attempt_is_told_of_those_before() -> None:
    child = SubOrchestrationFailedError("child", "child-1", 9, FAILURE)
    met = Attempts(failed(4, heartbeat="10"), failed(6), child, failed(11, heartbeat="30"))
    assert met.run(RetryPolicy(5)) == "done"
    assert met.seen == [
        (0, None),
        (1.5, PreviousAttempt(1, 4, "10")),
        (4, PreviousAttempt(2, 4, "10")),
        (8.5, PreviousAttempt(3, 4, "10")),
        (17, PreviousAttempt(4, 4, "30")),
    ]


def test_the_last_error_is_raised_when_the_policy_gives_up() -> None:
    errors = [failed(1), failed(3)]
    met = Attempts(*errors)
    with pytest.raises(ActivityFailedError) as raised:
        met.run(RetryPolicy(2))
    assert raised.value is errors[1]
    assert len(met.seen) == 2


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
def test_what_is_no_failure_of_a_call_is_passed_on_at_once(error: BaseException) -> None:
    met = Attempts(error)
    with pytest.raises(type(error)):
        met.run(RetryPolicy())
    assert len(met.seen) == 1


def test_a_cancellation_ends_the_waiting() -> None:
    async def cancelled(seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(seconds)

    met = Attempts(failed(1))
    with pytest.raises(asyncio.CancelledError):
        met.run(RetryPolicy(), sleep=cancelled)
    assert len(met.seen) == 1


@pytest.mark.parametrize(("overslept", "begun"), [(0.5, 2), (0.6, 1)])
def test_a_timer_that_fires_after_the_timeout_begins_no_attempt(overslept: float, begun: int) -> None:
    async def late(seconds: float) -> None:
        await asyncio.sleep(seconds + overslept)

    met = Attempts(failed(1), failed(3))
    with pytest.raises(ActivityFailedError, match=f"task {2 * begun - 1}"):
        met.run(RetryPolicy(timeout=2 * SECOND), sleep=late)
    assert len(met.seen) == begun


def test_a_sub_orchestration_s_failure_names_it() -> None:
    error = SubOrchestrationFailedError("child", "child-1", 9, FAILURE)
    expected = "sub-orchestration 'child' (instance 'child-1', task 9) failed: builtins.OSError: no route"
    assert str(error) == expected
    assert (error.name, error.instance_id, error.task_id, error.details) == ("child", "child-1", 9, FAILURE)
