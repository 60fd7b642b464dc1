"""What an entity's operation can know, and what it can ask for besides changing its state."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

from durable.core import events as ev
from durable.core.context import operation_of
from durable.core.ids import EntityId, check_event_name, check_instance_id
from durable.core.services import CallTarget
from durable.payloads import encode

_current: ContextVar[EntityContext] = ContextVar("durable_entity")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EntityContext:
    """One operation that is running. What it asks for takes effect when it is committed, with the state.

    ``is_new`` says that the entity had no state before. ``caller_id`` is the instance that waits for the result, if
    one does.
    """

    def __init__(
        self,
        entity_id: EntityId,
        operation: str,
        timestamp: int,
        is_new: bool,
        caller_id: str | None,
        new_instance_id: Callable[[], str],
        orchestrator: Callable[[str], CallTarget[Any]],
        target: Callable[[str, str], CallTarget[Any]],
    ) -> None:
        self.entity_id = entity_id
        self.operation = operation
        self.is_new = is_new
        self.caller_id = caller_id
        self.decisions: list[Any] = []
        self.deleted: bool = False
        self._timestamp = timestamp
        self._new_instance_id = new_instance_id
        self._orchestrator = orchestrator
        self._target = target

    @staticmethod
    def current() -> EntityContext:
        """The context of the operation that is running here.

        Raises:
            RuntimeError: no operation of an entity is running here.
        """
        try:
            return _current.get()
        except LookupError:
            raise RuntimeError("EntityContext.current() was called outside an operation of an entity") from None

    @property
    def now(self) -> datetime:
        """When the batch of operations began that this one belongs to, UTC."""
        return _EPOCH + timedelta(microseconds=self._timestamp)

    def delete(self) -> None:
        """Forget the entity's state when this operation is through."""
        self.deleted = True

    def signal_entity(
        self, entity: Any, key: str, /, *args: Any, signal_time: datetime | None = None, **kwargs: Any
    ) -> None:
        """Have an entity do an operation, and do not wait. As ``OrchestrationContext.signal_entity``."""
        entity_id, operation = operation_of(entity, key)
        payload = self._target(entity_id.name, operation).encode_arguments(args, kwargs)
        scheduled = None if signal_time is None else (signal_time - _EPOCH) // timedelta(microseconds=1)
        self.decisions.append(
            ev.EntityOperationSignaled(self._timestamp, 0, str(entity_id), operation, payload, scheduled)
        )

    def start_orchestration(
        self, orchestrator: Any, *args: Any, instance_id: str | None = None, version: str | None = None, **kwargs: Any
    ) -> str:
        """Start an instance and return its id; nothing happens when that id is in use."""
        target = self._orchestrator(orchestrator) if isinstance(orchestrator, str) else orchestrator
        payload = target.encode_arguments(args, kwargs)
        started = self._new_instance_id() if instance_id is None else check_instance_id(instance_id)
        self.decisions.append(
            ev.SubOrchestrationInstanceCreated(
                self._timestamp, 0, started, target.name, payload, version, detached=True
            )
        )
        return started

    def send_event(self, instance_id: str, name: str, data: object = None) -> None:
        """Raise an external event to an instance."""
        check_instance_id(instance_id)
        payload = encode(data, f"the data of event {check_event_name(name)!r}")
        self.decisions.append(ev.EventSent(self._timestamp, 0, instance_id, name, payload))

    def enter(self) -> None:
        """Make this the current operation of the running context (for the worker)."""
        _current.set(self)
