"""Values that events hold: where an execution comes from, and what one attempt hands to the next.

Rule of this file: values only, each a field of some event.
"""

from __future__ import annotations

from durable.core.values import value


@value
class ParentInstance:
    """Which call of which instance a sub-orchestration answers, and the instance at the top of the tree.

    ``traceparent`` is what the one at the top was started with, where a trace called it.
    """

    instance_id: str
    execution_id: str
    task_id: int
    root_instance_id: str
    root_execution_id: str | None = None
    traceparent: str | None = None


@value
class PreviousAttempt:
    """What a retried call hands to its next attempt: how many there were, the first one's task, the last heartbeat."""

    attempts: int
    first_task_id: int
    heartbeat: str | None = None


@value
class ForkOrigin:
    """What an instance was forked from: an execution of another, up to and including the event of that number."""

    instance_id: str
    execution_id: str
    event: int


@value
class QueuePlace:
    """Where a call waits: in which queue, how urgent (the higher the sooner), and with whom it shares a ``key``."""

    name: str
    priority: int = 0
    key: str | None = None
