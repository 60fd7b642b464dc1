"""Every error a user of durable can meet, and :class:`FailureDetails`, a failure as a value.

Rule of this file: an exception's message says what happened, which value, which rule and
what to do. Errors that cross a process boundary travel as :class:`FailureDetails`.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Self

_MAX_CAUSES = 10
_MAX_TEXT = 32_768


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """A failure as it is stored in history and shown to users.

    ``error_type`` is the exception's qualified name (``"builtins.ValueError"``), ``cause``
    the failure it was raised from, if any.
    """

    error_type: str
    message: str
    stack_trace: str | None = None
    cause: FailureDetails | None = None

    @classmethod
    def of(cls, error: BaseException, *, depth: int = 0) -> Self:
        """Describe ``error`` with its stack and up to ten links of its cause chain."""
        kind = type(error)
        origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return cls(
            error_type=f"{kind.__module__}.{kind.__qualname__}",
            message=_storable(_text(error)),
            stack_trace=_storable("".join(traceback.format_exception(error, chain=False))),
            cause=cls.of(origin, depth=depth + 1) if origin and depth < _MAX_CAUSES else None,
        )

    def is_caused_by(self, kind: type[BaseException] | str) -> bool:
        """Whether this failure or one of its causes is of ``kind`` (class or its name, with or without module)."""
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        found = self.error_type == name or self.error_type.rpartition(".")[2] == name
        return found or (self.cause is not None and self.cause.is_caused_by(kind))


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


class ActivityFailedError(DurableError):
    """An awaited activity failed; ``details`` holds the error it raised, in its own process."""

    def __init__(self, name: str, task_id: int, details: FailureDetails) -> None:
        super().__init__(f"activity {name!r} (task {task_id}) failed: {details.error_type}: {details.message}")
        self.name = name
        self.task_id = task_id
        self.details = details


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


class StuckOrchestrationError(DurableError):
    """The orchestrator waits, but for nothing durable: nothing could ever wake it."""


class RunawayTurnError(DurableError):
    """A turn ran more callbacks than the limit without coming to rest."""


class UnsupportedHistoryError(DurableError):
    """The history holds something that this version of durable does not know."""


class LoopDiscardedError(DurableError):
    """An evicted instance's code tried to use its loop while it was being closed."""
