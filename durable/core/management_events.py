"""History events of what is done to an instance from outside. As in ``events.py``: values only."""

from __future__ import annotations

from dataclasses import field

from durable.core.values import value


@value
class ExecutionTerminated:
    """The instance is to end now, without its code being asked; ``input`` becomes its output.

    ``recurse`` says that its sub-orchestrations are to end, too.
    """

    type: str = field(init=False, default="ExecutionTerminated", repr=False)
    timestamp: int
    input: str | None = None
    recurse: bool = True
    message_id: str | None = None


@value
class ExecutionCancelRequested:
    """The orchestrator is to be cancelled: CancelledError at its await.

    With ``terminate_with`` (a JSON value) the instance ends as Terminated with that output, whatever the code does.
    """

    type: str = field(init=False, default="ExecutionCancelRequested", repr=False)
    timestamp: int
    reason: str | None = None
    terminate_with: str | None = None
    message_id: str | None = None


@value
class ExecutionSuspended:
    """What arrives from here on waits for ExecutionResumed."""

    type: str = field(init=False, default="ExecutionSuspended", repr=False)
    timestamp: int
    reason: str | None = None
    message_id: str | None = None


@value
class ExecutionResumed:
    type: str = field(init=False, default="ExecutionResumed", repr=False)
    timestamp: int
    reason: str | None = None
    message_id: str | None = None


@value
class ExecutionRewound:
    """The turns from event number ``keep`` on count no more; what succeeded in them is kept, what failed runs again.

    ``children`` are the tasks whose sub-orchestrations are rewound, too.
    """

    type: str = field(init=False, default="ExecutionRewound", repr=False)
    timestamp: int
    keep: int = 0
    children: tuple[int, ...] = ()
    reason: str | None = None
    message_id: str | None = None
