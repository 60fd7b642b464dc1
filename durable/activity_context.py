"""What an activity can know about the call it is running."""

from __future__ import annotations

from contextvars import ContextVar

from durable.core.values import value

_current: ContextVar[ActivityContext] = ContextVar("durable_activity")


@value
class ActivityContext:
    """One attempt of one activity call.

    An activity runs at least once. ``idempotency_key`` is the same for every attempt of a call and of
    no other call; hand it to the systems you change. ``attempt`` counts deliveries from 1.
    """

    instance_id: str
    execution_id: str
    task_id: int
    name: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        return f"{self.instance_id}/{self.execution_id}/{self.task_id}"

    @staticmethod
    def current() -> ActivityContext:
        """The attempt that is running here, also inside threads of ``def`` activities.

        Raises:
            RuntimeError: no activity is running here.
        """
        try:
            return _current.get()
        except LookupError:
            raise RuntimeError("ActivityContext.current() was called outside an activity") from None

    def enter(self) -> None:
        """Make this the current attempt of the running context (for the worker)."""
        _current.set(self)
