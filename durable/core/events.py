"""History events: the immutable facts an instance is made of.

Rule of this file: values only. Names and fields follow the Durable Task vocabulary
(Azure/durabletask, ``src/DurableTask.Core/History``). Timestamps and ``fire_at`` are
integer microseconds since the epoch, UTC: BSON dates keep milliseconds only and would
change a value at replay. Payloads (``input``, ``result``, ``status``) are JSON text, opaque here.

``type`` is the event's name, so that its JSON form by orjson is already the stored form.
``at`` is the user's source line, for messages only. ``message_id`` names the message that brought an
event, by which a second delivery is recognized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

from durable.core.entity_events import (
    EntityLockGranted,
    EntityLockRequested,
    EntityOperationCalled,
    EntityOperationCompleted,
    EntityOperationFailed,
    EntityOperationSignaled,
    EntityStateSet,
    EntityUnlockSent,
)
from durable.core.errors import FailureDetails
from durable.core.event_parts import ForkOrigin, ParentInstance, PreviousAttempt, QueuePlace
from durable.core.management_events import (
    ExecutionCancelRequested,
    ExecutionResumed,
    ExecutionRewound,
    ExecutionSuspended,
    ExecutionTerminated,
)
from durable.core.values import value

__all__ = [
    "EntityLockGranted",
    "EntityLockRequested",
    "EntityOperationCalled",
    "EntityOperationCompleted",
    "EntityOperationFailed",
    "EntityOperationSignaled",
    "EntityStateSet",
    "EntityUnlockSent",
    "ExecutionCancelRequested",
    "ExecutionResumed",
    "ExecutionRewound",
    "ExecutionSuspended",
    "ExecutionTerminated",
    "ForkOrigin",
    "ParentInstance",
    "PreviousAttempt",
    "QueuePlace",
]

ORDER_RULE = 1
"""Version of the rule "apply one event, run to quiescence, next event" (``ExecutionStarted.engine``)."""


# --- the execution -------------------------------------------------------------------------


@value
class ExecutionStarted:
    """The first event of an execution. ``input`` holds the encoded arguments."""

    type: str = field(init=False, default="ExecutionStarted", repr=False)
    timestamp: int
    instance_id: str
    execution_id: str
    name: str
    input: str
    version: str | None = None
    tags: Mapping[str, str] | None = None
    engine: int = ORDER_RULE
    runtime: str | None = None  # Python and anyio versions: callback order may differ between them
    parent: ParentInstance | None = None


@value
class OrchestratorStarted:
    """A turn ran at ``timestamp``; this is the time the orchestrator sees in that turn."""

    type: str = field(init=False, default="OrchestratorStarted", repr=False)
    timestamp: int


@value
class OrchestratorCompleted:
    """The turn came to rest; the events up to here are one checkpoint."""

    type: str = field(init=False, default="OrchestratorCompleted", repr=False)
    timestamp: int


@value
class CustomStatusSet:
    type: str = field(init=False, default="CustomStatusSet", repr=False)
    timestamp: int
    status: str


@value
class VersionMarker:
    """The code asked ``ctx.patched(patch_id)`` for the first time, and went the new way."""

    type: str = field(init=False, default="VersionMarker", repr=False)
    timestamp: int
    patch_id: str


@value
class ContinueAsNew:
    """The execution ended and ``execution_id`` follows it with the arguments ``input``.

    ``events`` were received and did not reach the code; they are sent to the instance again.
    """

    type: str = field(init=False, default="ContinueAsNew", repr=False)
    timestamp: int
    execution_id: str
    input: str
    events: tuple[Kept, ...] = ()


@value
class ExecutionCompleted:
    """The execution ended: ``status`` is a terminal one; with ``result``, or with ``failure``."""

    type: str = field(init=False, default="ExecutionCompleted", repr=False)
    timestamp: int
    status: str
    result: str | None = None
    failure: FailureDetails | None = None


@value
class ExecutionForked:
    """What comes before is copied from ``origin``; from here on it is the execution that is named here.

    ``events`` had arrived there after the last turn that is copied, and arrive here again.
    """

    type: str = field(init=False, default="ExecutionForked", repr=False)
    timestamp: int
    instance_id: str
    execution_id: str
    origin: ForkOrigin
    version: str | None = None
    events: tuple[ArrivedAgain, ...] = ()


# --- activities and timers ------------------------------------------------------------------


@value
class TaskScheduled:
    """The orchestrator called an activity. ``timeout`` and ``heartbeat_timeout`` (microseconds) are for one attempt."""

    type: str = field(init=False, default="TaskScheduled", repr=False)
    timestamp: int
    task_id: int
    name: str
    input: str
    timeout: int | None = None
    at: str | None = None
    heartbeat_timeout: int | None = None
    previous: PreviousAttempt | None = None
    queue: QueuePlace | None = None


@value
class TaskCompleted:
    """An activity ended well. ``attempt`` counts deliveries; ``started_at`` is the attempt's start.

    ``trace`` is what the activity put on its span (JSON).
    """

    type: str = field(init=False, default="TaskCompleted", repr=False)
    timestamp: int
    task_id: int
    result: str
    attempt: int = 1
    started_at: int | None = None
    worker: str | None = None
    trace: str | None = None


@value
class TaskFailed:
    """An activity raised, timed out, or was given up as poison. ``heartbeat`` is the last it reported."""

    type: str = field(init=False, default="TaskFailed", repr=False)
    timestamp: int
    task_id: int
    failure: FailureDetails
    attempt: int = 1
    started_at: int | None = None
    worker: str | None = None
    heartbeat: str | None = None
    trace: str | None = None


@value
class TaskDeferred:
    """The activity returned, and will be completed from outside by its task token. The rest as in TaskCompleted."""

    type: str = field(init=False, default="TaskDeferred", repr=False)
    timestamp: int
    task_id: int
    attempt: int = 1
    started_at: int | None = None
    worker: str | None = None
    trace: str | None = None


@value
class TaskCancelRequested:
    """The orchestrator no longer waits for this activity, timer, child or entity; its outcome is not recorded.

    ``terminate`` is for a child that is to end without being asked.
    """

    type: str = field(init=False, default="TaskCancelRequested", repr=False)
    timestamp: int
    task_id: int
    terminate: bool = False


@value
class TimerCreated:
    type: str = field(init=False, default="TimerCreated", repr=False)
    timestamp: int
    task_id: int
    fire_at: int
    at: str | None = None


@value
class TimerFired:
    type: str = field(init=False, default="TimerFired", repr=False)
    timestamp: int
    task_id: int
    fire_at: int


# --- other orchestrations -------------------------------------------------------------------


@value
class SubOrchestrationInstanceCreated:
    """The orchestrator called another one, or (``detached``) started one that it does not wait for."""

    type: str = field(init=False, default="SubOrchestrationInstanceCreated", repr=False)
    timestamp: int
    task_id: int
    instance_id: str
    name: str
    input: str
    version: str | None = None
    tags: Mapping[str, str] | None = None
    parent_close: str = "terminate"
    detached: bool = False
    at: str | None = None


@value
class SubOrchestrationInstanceCompleted:
    type: str = field(init=False, default="SubOrchestrationInstanceCompleted", repr=False)
    timestamp: int
    task_id: int
    result: str


@value
class SubOrchestrationInstanceFailed:
    type: str = field(init=False, default="SubOrchestrationInstanceFailed", repr=False)
    timestamp: int
    task_id: int
    failure: FailureDetails


@value
class EventRaised:
    """An external event came.

    ``traceparent`` is that of the client that raised it. ``root`` is the top of the sender's tree, where the sender is
    not the top itself or a trace called it: instance, execution, traceparent or "".
    """

    type: str = field(init=False, default="EventRaised", repr=False)
    timestamp: int
    name: str
    input: str
    message_id: str | None = None
    traceparent: str | None = None
    root: tuple[str, ...] | None = None


@value
class EventSent:
    """The orchestrator sent an external event to another instance."""

    type: str = field(init=False, default="EventSent", repr=False)
    timestamp: int
    task_id: int
    instance_id: str
    name: str
    input: str


Kept: TypeAlias = EventRaised | ExecutionCancelRequested
"""What the next execution gets of what this one received."""

ArrivedAgain: TypeAlias = (
    TaskCompleted
    | TaskFailed
    | SubOrchestrationInstanceCompleted
    | SubOrchestrationInstanceFailed
    | EventRaised
    | EntityOperationCompleted
    | EntityOperationFailed
    | ExecutionCancelRequested
    | ExecutionSuspended
    | ExecutionResumed
)
"""What a fork can be given again of what its origin received; a timer fires again by itself."""

ArrivedEvent: TypeAlias = (
    ArrivedAgain
    | ExecutionStarted
    | TaskDeferred
    | TimerFired
    | EntityLockGranted
    | ExecutionTerminated
    | ExecutionRewound
    | ExecutionForked
)
"""Events that come to an orchestration from outside and open a turn."""

Decision: TypeAlias = (
    TaskScheduled
    | TaskCancelRequested
    | TimerCreated
    | SubOrchestrationInstanceCreated
    | EventSent
    | EntityOperationCalled
    | EntityOperationSignaled
    | EntityLockRequested
    | EntityUnlockSent
    | CustomStatusSet
    | VersionMarker
    | ContinueAsNew
    | ExecutionCompleted
)
"""Events that the orchestrator's code causes. A *command* is one that is not committed yet."""

HistoryEvent: TypeAlias = ArrivedEvent | OrchestratorStarted | Decision | EntityStateSet | OrchestratorCompleted
