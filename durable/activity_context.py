"""What an activity can know about the call it is running, and what it can report meanwhile."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import orjson

from durable.core.values import value

_current: ContextVar[Callable[[], ActivityContext]] = ContextVar("durable_activity")

DEFERRED: Any = object()
"""What an activity returns that will be completed from outside."""


@value
class ActivityContext:
    """One attempt of one activity call.

    An activity runs at least once. ``idempotency_key`` is the same for every attempt of a call, those of a retry
    policy too, and of no other call; hand it to the systems you change. ``attempt`` counts from 1: attempts of the
    policy, and deliveries after a worker died. ``heartbeat_details`` is what an earlier attempt last reported.
    ``session`` is the MongoDB client session of a transactional activity, in whose transaction it is to write.
    """

    instance_id: str
    execution_id: str
    task_id: int
    name: str
    attempt: int
    first_task_id: int = 0
    heartbeat_details: Any = None
    report: Callable[[Any], None] | None = None
    session: Any = None

    @property
    def idempotency_key(self) -> str:
        return f"{self.instance_id}/{self.execution_id}/{self.first_task_id or self.task_id}"

    @property
    def task_token(self) -> str:
        """Names this call to ``hub.complete_activity`` and ``hub.fail_activity``, wherever they are called."""
        place = [self.instance_id, self.execution_id, self.task_id]
        return urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")

    def heartbeat(self, details: Any = None) -> None:
        """Say that the attempt is alive; ``details`` (JSON) are handed to the next attempt, should there be one.

        They are stored once a second at most, so a worker's death may lose the last. May be called from any thread.
        Raises PayloadError for details that JSON cannot carry.
        """
        if self.report is not None:
            self.report(details)

    def complete_later(self) -> Any:
        """Return this from the activity: the call goes on until it is completed from outside by ``task_token``."""
        return DEFERRED

    @staticmethod
    def current() -> ActivityContext:
        """The attempt that is running here, also inside threads of ``def`` activities.

        Raises:
            RuntimeError: no activity is running here.
        """
        found = ActivityContext.find()
        if found is None:
            raise RuntimeError("ActivityContext.current() was called outside an activity")
        return found

    @staticmethod
    def find() -> ActivityContext | None:
        """The attempt that is running here; None outside activities."""
        make = _current.get(None)
        return None if make is None else make()

    @staticmethod
    def enter(make: Callable[[], ActivityContext]) -> None:
        """Have ``make`` give the current attempt of the running context (for the worker), if it is ever asked for."""
        _current.set(make)


def parse_token(token: str) -> tuple[str, str, int]:
    """The instance, execution and task that a task token names. Raises ValueError for any other text."""
    try:
        instance_id, execution_id, task_id = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return str(instance_id), str(execution_id), int(task_id)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{token[:60]!r} is not a task token") from error
