"""Effects: what turns call for beyond their instance, and who provides it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from durable.backend import Commit, InstanceRecord, Message
from durable.core.events import TaskScheduled
from durable.worker.live import LiveInstance


class Effects(Protocol):
    """What follows from turns: provided by the worker."""

    def start_activity(self, instance: LiveInstance, scheduled: TaskScheduled, number: int) -> None:
        """Run the activity; ``number`` counts its deliveries."""
        ...

    def cancel_activity(self, instance: LiveInstance, task_id: int) -> None: ...

    def keep_activities(self, instance_id: str, task_ids: Set[int]) -> None:
        """Cancel those activities of the instance that are not among ``task_ids``."""
        ...

    def send(self, commit: Commit) -> None:
        """Deliver the messages and starts of a committed turn to instances of this process."""
        ...

    def refuse(self, messages: Sequence[Message], answers: Sequence[Message] = ()) -> None:
        """Nobody will take these in: duplicates, and what came too late. ``answers`` are sent instead."""
        ...

    def draining(self, instance: LiveInstance) -> bool:
        """Whether the instance's partition is being handed over."""
        ...

    def read_inbox(self, instance_id: str) -> None:
        """Messages of the instance wait in the store."""
        ...

    def read_on(self, instance_id: str) -> None:
        """The next messages of a long inbox are to be read."""
        ...

    def wake_at(self, instance: LiveInstance) -> None:
        """The instance is at rest until ``instance.state.due_at``."""
        ...

    def begin_at(self, instance_id: str, due_at: int) -> None:
        """An instance that is not in memory begins then."""
        ...

    def committed(self, record: InstanceRecord) -> None:
        """The store holds this state now."""
        ...

    def committed_late(self, instance_id: str) -> None:
        """A turn was committed after its instance was dropped; nothing has followed from it."""
        ...

    def successor(self, instance: LiveInstance, record: InstanceRecord) -> LiveInstance:
        """The next execution of an instance that continues as new."""
        ...

    def left(self, instance: LiveInstance, error: Exception | None) -> None:
        """The instance was dropped with events in its mailbox: a lost race (None), or a turn that failed."""
        ...
