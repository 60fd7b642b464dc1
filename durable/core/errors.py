"""Every error a user of durable can meet, and :class:`FailureDetails`, a failure as a value.

Rule of this file: an exception's message says what happened, which value, which rule and
what to do. Errors that cross a process boundary travel as :class:`FailureDetails`.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

_MAX_CAUSES = 10
_MAX_TEXT = 32_768
_MAX_WAIT = timedelta(days=36_525)


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """A failure as it is stored in history and shown to users.

    ``error_type`` is the exception's qualified name (``"builtins.ValueError"``), ``cause``
    the failure it was raised from, if any. ``non_retryable`` and ``retry_after`` (microseconds) are what the
    activity asked of a retry policy by NonRetryableError and RetryableError. ``bases`` names the classes that
    the exception's class is derived from. Where a call failed, the cause is the failure of what was called.
    """

    error_type: str
    message: str
    stack_trace: str | None = None
    cause: FailureDetails | None = None
    non_retryable: bool | None = None
    retry_after: int | None = None
    bases: tuple[str, ...] | None = None

    @classmethod
    def of(cls, error: BaseException, *, depth: int = 0) -> Self:
        """Describe ``error`` with its stack and up to ten links of its cause chain."""
        kind = type(error)
        origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if isinstance(error, BaseExceptionGroup):
            origin = error.exceptions[0]  # of a task group that failed, this says why
        bases = tuple(_qualified(base) for base in kind.__mro__[1:] if base not in _COMMON)
        cause = cls.of(origin, depth=depth + 1) if origin and depth < _MAX_CAUSES else None
        return cls(
            error_type=_qualified(kind),
            message=_storable(_text(error)),
            stack_trace=_storable("".join(traceback.format_exception(error, chain=False))),
            cause=getattr(error, "details", None) if isinstance(error, CallFailedError) else cause,
            non_retryable=True if isinstance(error, NonRetryableError) else None,
            retry_after=_microseconds(error.retry_after) if isinstance(error, RetryableError) else None,
            bases=bases or None,
        )

    def is_caused_by(self, kind: type[BaseException] | str) -> bool:
        """Whether this failure or one of its causes is of ``kind``: a class, or its name with or without module.

        Subclasses count, too.
        """
        if kind in _COMMON or kind in _COMMON_NAMES:
            return True
        name = kind if isinstance(kind, str) else _qualified(kind)
        names = (self.error_type, *(self.bases or ()))
        found = name in names or name in [one.rpartition(".")[2] for one in names]
        return found or (self.cause is not None and self.cause.is_caused_by(kind))


_COMMON = (object, BaseException, Exception)
_COMMON_NAMES = ("Exception", "BaseException", "builtins.Exception", "builtins.BaseException")


def _qualified(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # an exception whose own __str__ raises must not hide what happened
        return f"<its message could not be made: {broken!r}>"


def _storable(text: str) -> str:
    """``text`` as any store takes it: valid Unicode, and of bounded length."""
    if len(text) > _MAX_TEXT:
        half, left_out = _MAX_TEXT // 2, len(text) - _MAX_TEXT
        text = f"{text[:half]}\n... {left_out:,} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _microseconds(wait: timedelta | None) -> int | None:
    return None if wait is None else wait // timedelta(microseconds=1)


class DurableError(Exception):
    """Base class of all errors raised by durable."""


# --- definitions and input -------------------------------------------------------------


class RegistrationError(DurableError):
    """A definition breaks a rule; raised at decoration, naming the function and its file."""


class UnknownFunctionError(DurableError):
    """No orchestrator or activity of that name is registered here."""


class PayloadError(DurableError):
    """A value cannot be written as JSON, or does not fit the annotation of its receiver."""


class PayloadTooLargeError(PayloadError):
    """A value is larger than the hard limit, even offloaded."""


# --- instances -------------------------------------------------------------------------


class InstanceNotFoundError(DurableError):
    """No instance has this id."""


class InstanceExistsError(DurableError):
    """An instance with this id exists already; ``status`` tells how it stands."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(
            f"instance {instance_id!r} exists already with status {status}; "
            "choose another id, or leave instance_id out to get a new one"
        )
        self.instance_id = instance_id
        self.status = status


class OrchestrationFailedError(DurableError):
    """The orchestration ended as Failed; ``details`` says why."""

    def __init__(self, instance_id: str, details: FailureDetails) -> None:
        super().__init__(f"instance {instance_id!r} failed: {details.error_type}: {details.message}")
        self.instance_id = instance_id
        self.details = details


class OrchestrationTerminatedError(DurableError):
    """The instance was terminated; ``output`` is what was given as the reason."""

    def __init__(self, instance_id: str, output: object) -> None:
        super().__init__(f"instance {instance_id!r} was terminated: {output}")
        self.instance_id = instance_id
        self.output = output


class OrchestrationCanceledError(DurableError):
    """The instance was cancelled and ended as Canceled; ``reason`` is what was given."""

    def __init__(self, instance_id: str, reason: str | None) -> None:
        super().__init__(f"instance {instance_id!r} was cancelled" + (f": {reason}" if reason else ""))
        self.instance_id = instance_id
        self.reason = reason


class InstanceFinishedError(DurableError):
    """The instance has ended; it takes no events and no requests any more."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(f"instance {instance_id!r} has ended with status {status}")
        self.instance_id = instance_id
        self.status = status


class InstanceNotFinishedError(DurableError):
    """The instance has not ended; only one that has can be purged, or restarted under its own id."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(f"instance {instance_id!r} has not ended, its status is {status}; terminate it first, or wait")
        self.instance_id = instance_id
        self.status = status


class InstanceHeldError(DurableError):
    """The instance is held: nobody may purge or replace it until it is released."""

    def __init__(self, instance_id: str, reason: str) -> None:
        super().__init__(f"instance {instance_id!r} is held ({reason}); release it first")
        self.instance_id = instance_id
        self.reason = reason


class InstanceNotFailedError(DurableError):
    """Only a failed instance can be rewound."""

    def __init__(self, instance_id: str, status: str) -> None:
        super().__init__(f"only a failed instance can be rewound; {instance_id!r} has status {status}")
        self.instance_id = instance_id
        self.status = status


class CallFailedError(DurableError):
    """Base class of what an orchestrator gets when something it awaited failed; ``details`` says why."""

    details: FailureDetails


class ActivityFailedError(CallFailedError):
    """An awaited activity failed; ``details`` holds the error it raised, in its own process.

    ``heartbeat`` is the JSON text of what the attempt last reported, if anything.
    """

    def __init__(self, name: str, task_id: int, details: FailureDetails, heartbeat: str | None = None) -> None:
        super().__init__(f"activity {name!r} (task {task_id}) failed: {details.error_type}: {details.message}")
        self.name = name
        self.task_id = task_id
        self.details = details
        self.heartbeat = heartbeat


class EntityOperationFailedError(CallFailedError):
    """An awaited operation of an entity raised; its state is as before. ``details`` holds the error."""

    def __init__(self, entity_id: str, operation: str, task_id: int, details: FailureDetails) -> None:
        super().__init__(
            f"operation {operation!r} of entity {entity_id} (task {task_id}) failed: "
            f"{details.error_type}: {details.message}"
        )
        self.entity_id = entity_id
        self.operation = operation
        self.task_id = task_id
        self.details = details


class LockingRulesViolationError(DurableError):
    """A rule of critical sections was broken; nothing was done."""


class ContinuedAsNew(BaseException):
    """Raised by ``ctx.continue_as_new``; not an Exception, so that handlers of errors let it pass."""


class SubOrchestrationFailedError(CallFailedError):
    """An awaited sub-orchestration failed; ``details`` holds the error that ended it, ``instance_id`` names it."""

    def __init__(self, name: str, instance_id: str, task_id: int, details: FailureDetails) -> None:
        super().__init__(
            f"sub-orchestration {name!r} (instance {instance_id!r}, task {task_id}) failed: "
            f"{details.error_type}: {details.message}"
        )
        self.name = name
        self.instance_id = instance_id
        self.task_id = task_id
        self.details = details


class NonRetryableError(DurableError):
    """Raised in an activity: trying again would not help, and a retry policy does not.

    It counts when it is the error that leaves the activity, not when that one was only raised from it.
    """


class RetryableError(DurableError):
    """Raised in an activity: ``retry_after`` says how long a retry policy is to wait, in place of its own delay.

    ``retry_after`` is a timedelta, or seconds; None leaves the delay to the policy. A time that has passed
    (below zero) means at once. As with NonRetryableError, only the error that leaves the activity counts.

    Raises:
        ValueError: ``retry_after`` is not a finite time of at most a hundred years.
    """

    retry_after: timedelta | None = None

    def __init__(self, *args: object, retry_after: timedelta | float | None = None) -> None:
        super().__init__(*args)
        if isinstance(retry_after, int | float):
            if not retry_after <= _MAX_WAIT.total_seconds():  # NaN is not, either
                raise _too_long(retry_after)
            retry_after = timedelta(seconds=max(retry_after, 0.0))
        if retry_after is not None:
            if retry_after > _MAX_WAIT:
                raise _too_long(retry_after)
            self.retry_after = max(retry_after, timedelta(0))


def _too_long(wait: timedelta | float) -> ValueError:
    return ValueError(f"retry_after must be a time of at most {_MAX_WAIT.days:,} days (or seconds), not {wait!r}")


class ActivityTimeoutError(DurableError):
    """An activity attempt did not end within its timeout."""


class PoisonActivityError(DurableError):
    """An activity was delivered too often without an outcome: its worker died each time."""


# --- the engine ------------------------------------------------------------------------


class NonDeterminismError(DurableError):
    """Orchestrator code did not do what its history records, or what an orchestrator may do.

    The instance is parked, not failed: its history is untouched and it goes on when the
    code agrees with the history again.
    """


class VersionMismatchError(DurableError):
    """This worker does not run instances of that version (settings ``version`` and ``version_match``)."""


class StuckOrchestrationError(DurableError):
    """The orchestrator waits, but for nothing durable: nothing could ever wake it."""


class RunawayTurnError(DurableError):
    """A turn ran more callbacks than the limit without coming to rest."""


class HistoryLimitError(DurableError):
    """The history of an execution has grown to the setting ``max_history``; the instance has failed for that.

    The worker ends the instance with it. Its code does not see it, and must not raise it.
    """


class TaskLimitError(DurableError):
    """An orchestrator has more open at once, or asks for more in one turn, than one execution can have.

    Raised by the call that goes beyond, with nothing scheduled for it; what was scheduled before goes on.
    """


class UnsupportedHistoryError(DurableError):
    """The history holds something that this version of durable does not know."""


class LoopDiscardedError(DurableError):
    """An evicted instance's code tried to use its loop while it was being closed."""
