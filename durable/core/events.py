"""History events: the immutable facts an instance is made of.

Rule of this file: values only. Names and fields follow the Durable Task vocabulary
(Azure/durabletask, ``src/DurableTask.Core/History``). Timestamps and ``fire_at`` are
integer microseconds since the epoch, UTC: BSON dates keep milliseconds only and would
change a value at replay. Payloads (``input``, ``result``, ``status``) are JSON text, opaque here.

``type`` is the event's name, so that its JSON form by orjson is already the stored form.

A turn is recorded as the events that arrived, OrchestratorStarted, what the code decided,
OrchestratorCompleted. A *command* is a decision event that is not committed yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import TypeAlias

from durable.core.errors import FailureDetails
from durable.core.values import value

ORDER_RULE = 1
"""Version of the rule "apply one event, run to quiescence, next event" (``ExecutionStarted.engine``)."""


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


@value
class OrchestratorStarted:
    """A turn ran at ``timestamp``; this is the time the orchestrator sees in that turn."""

    type: str = field(init=False, default="OrchestratorStarted", repr=False)
    timestamp: int


@value
class TaskScheduled:
    """The orchestrator called an activity. ``at`` is the calling source line, for messages only."""

    type: str = field(init=False, default="TaskScheduled", repr=False)
    timestamp: int
    task_id: int
    name: str
    input: str
    timeout: int | None = None  # microseconds for one attempt
    at: str | None = None


@value
class TaskCompleted:
    """An activity ended well. ``attempt`` counts deliveries; ``started_at`` is the attempt's start."""

    type: str = field(init=False, default="TaskCompleted", repr=False)
    timestamp: int
    task_id: int
    result: str
    attempt: int = 1
    started_at: int | None = None
    worker: str | None = None


@value
class TaskFailed:
    """An activity raised, timed out, or was given up as poison."""

    type: str = field(init=False, default="TaskFailed", repr=False)
    timestamp: int
    task_id: int
    failure: FailureDetails
    attempt: int = 1
    started_at: int | None = None
    worker: str | None = None


@value
class TaskCancelRequested:
    """The orchestrator no longer waits for this activity or timer; its outcome is not recorded."""

    type: str = field(init=False, default="TaskCancelRequested", repr=False)
    timestamp: int
    task_id: int


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


@value
class CustomStatusSet:
    type: str = field(init=False, default="CustomStatusSet", repr=False)
    timestamp: int
    status: str


@value
class OrchestratorCompleted:
    """The turn came to rest; the events up to here are one checkpoint."""

    type: str = field(init=False, default="OrchestratorCompleted", repr=False)
    timestamp: int


@value
class ExecutionCompleted:
    """The execution ended: ``status`` is ``"Completed"`` with ``result`` or ``"Failed"`` with ``failure``."""

    type: str = field(init=False, default="ExecutionCompleted", repr=False)
    timestamp: int
    status: str
    result: str | None = None
    failure: FailureDetails | None = None


HistoryEvent: TypeAlias = (
    ExecutionStarted
    | OrchestratorStarted
    | TaskScheduled
    | TaskCompleted
    | TaskFailed
    | TaskCancelRequested
    | TimerCreated
    | TimerFired
    | CustomStatusSet
    | OrchestratorCompleted
    | ExecutionCompleted
)

ArrivedEvent: TypeAlias = ExecutionStarted | TaskCompleted | TaskFailed | TimerFired
"""Events that come to an instance from outside and open a turn."""

Decision: TypeAlias = TaskScheduled | TaskCancelRequested | TimerCreated | CustomStatusSet | ExecutionCompleted
"""Events that the orchestrator's code causes; before the commit they are commands."""


@value
class RecordedTurn:
    """One committed turn, taken apart: what arrived, when it ran, what the code decided."""

    arrived: tuple[ArrivedEvent, ...]
    timestamp: int
    decisions: tuple[Decision, ...]


def split_turns(history: Iterable[HistoryEvent]) -> Iterator[RecordedTurn]:
    """Cut a history into its turns. Raises ValueError when the rows are not whole turns."""
    arrived: list[ArrivedEvent] = []
    decisions: list[Decision] = []
    timestamp: int | None = None
    for event in history:
        match event:
            case OrchestratorStarted():
                timestamp = event.timestamp
            case OrchestratorCompleted() if timestamp is not None:
                yield RecordedTurn(tuple(arrived), timestamp, tuple(decisions))
                arrived, decisions, timestamp = [], [], None
            case ExecutionStarted() | TaskCompleted() | TaskFailed() | TimerFired() if timestamp is None:
                arrived.append(event)
            case (
                TaskScheduled() | TaskCancelRequested() | TimerCreated() | CustomStatusSet() | ExecutionCompleted()
            ) if timestamp is not None:
                decisions.append(event)
            case _:
                raise ValueError(f"history rows are out of order: unexpected {event}")
    if arrived or decisions or timestamp is not None:
        raise ValueError("history ends inside a turn: OrchestratorCompleted is missing")
