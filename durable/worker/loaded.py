"""What loading an instance gives: the instance with what is to be run again, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durable.backend import Message
from durable.core.events import TaskCompleted, TaskDeferred, TaskFailed, TaskScheduled
from durable.worker.live import LiveInstance


@dataclass(slots=True)
class Loaded:
    """A live instance, and its outstanding activities with the number of the delivery each is to get (R3).

    ``seen`` counts the items of the mailbox given to ``load`` that were there before the inbox was read.
    """

    instance: LiveInstance
    outstanding: list[tuple[TaskScheduled, int]]
    seen: int = 0


@dataclass(slots=True)
class Gone:
    """There is no such instance, or it has ended: nobody will take in these messages. ``answers`` are to be sent."""

    messages: Sequence[Message]
    answers: Sequence[Message] = ()


@dataclass(slots=True)
class Early:
    """It is not to begin before ``due_at``, whatever is sent to it. ``seen`` as in :class:`Loaded`."""

    due_at: int
    seen: int


def answered_from_outside(instance: LiveInstance) -> set[int]:
    """The activities whose outcome waits as a message: completed by token, in a transaction, or run from a queue."""
    messages = (item for item in instance.mailbox if type(item) is Message)
    own = (message.event for message in messages if message.execution_id == instance.record.execution_id)
    return {event.task_id for event in own if isinstance(event, TaskCompleted | TaskFailed | TaskDeferred)}
