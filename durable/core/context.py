"""What orchestrator code sees: its context.

Rule of this file: everything here answers from the instance's own history and turn, so that it
answers the same at every replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, overload
from uuid import NAMESPACE_OID, UUID, uuid5

from durable.core.ids import EntityId
from durable.core.operations import NO_DEFAULT
from durable.core.orchestration_loop import running_orchestration
from durable.core.retry import RetryPolicy
from durable.core.sections import CriticalSection
from durable.core.services import ActivityTarget, OrchestratorTarget

if TYPE_CHECKING:
    import logging
    from random import Random

    from durable.core.replay import Orchestration

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID_NAMESPACE = uuid5(NAMESPACE_OID, "durable.orchestration")


class OrchestrationContext:
    """An orchestrator's view of its instance. Given as the first argument, or by :meth:`current`."""

    __slots__ = ("_logger", "_orchestration", "_random", "_uuids")

    def __init__(self, orchestration: Orchestration) -> None:
        self._orchestration = orchestration
        self._uuids = 0
        self._random: Random | None = None
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None

    @staticmethod
    def current() -> OrchestrationContext:
        """The context of the orchestrator that is running, for helpers that were not handed one.

        Raises:
            RuntimeError: the caller is not running in an orchestrator.
        """
        orchestration = running_orchestration()
        if orchestration is None:
            raise RuntimeError("OrchestrationContext.current() was called outside an orchestrator")
        return orchestration.context

    def forget_orchestration(self) -> None:
        """Let go of the orchestration, after its loop was discarded."""
        del self._orchestration

    # --- who and when

    @property
    def instance_id(self) -> str:
        return self._orchestration.started.instance_id

    @property
    def execution_id(self) -> str:
        return self._orchestration.started.execution_id

    @property
    def parent_instance_id(self) -> str | None:
        """The instance that called this one as a sub-orchestration, if one did."""
        parent = self._orchestration.started.parent
        return None if parent is None else parent.instance_id

    @property
    def root_instance_id(self) -> str:
        """The instance at the top of the tree of calls: this one's own id unless it has a parent."""
        parent = self._orchestration.started.parent
        return self.instance_id if parent is None else parent.root_instance_id

    @property
    def name(self) -> str:
        """The name the orchestrator is registered under."""
        return self._orchestration.started.name

    @property
    def version(self) -> str | None:
        """The version the instance was started with."""
        return self._orchestration.started.version

    @property
    def is_replaying(self) -> bool:
        """Whether the code is catching up with recorded history rather than making it."""
        return self._orchestration.is_replaying

    @property
    def is_live(self) -> bool:
        """Whether this is the first time the code runs here: not replaying, and not being evicted."""
        orchestration: Orchestration | None = getattr(self, "_orchestration", None)  # gone once it was discarded
        return orchestration is not None and not (orchestration.is_replaying or orchestration.loop.is_closed())

    @property
    def history_length(self) -> int:
        """Events in the history before this turn."""
        return self._orchestration.length

    @property
    def now(self) -> datetime:
        """The time of this turn, UTC; it stands still between awaits and is the same at every replay."""
        return _EPOCH + timedelta(microseconds=self._orchestration.timestamp)

    current_utc_datetime = now

    # --- deterministic stand-ins

    def new_uuid(self) -> UUID:
        """A UUID that is new to this execution and the same at every replay (version 5)."""
        self._uuids += 1
        return uuid5(_UUID_NAMESPACE, f"{self.instance_id}/{self.execution_id}/{self._uuids}")

    @property
    def random(self) -> Random:
        """A random generator seeded by the execution: the same numbers at every replay."""
        if self._random is None:
            self._random = self._orchestration.services.random(f"{self.instance_id}/{self.execution_id}")
        return self._random

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that is silent while replaying and adds the instance id."""
        if self._logger is None:
            self._logger = self._orchestration.services.logger(self)
        return self._logger

    def patched(self, patch_id: str) -> bool:
        """Whether to run the code that the patch of that id brought: False in executions that passed here before it.

        The answer is recorded, and the same from then on.
        """
        return self._orchestration.patched(patch_id)

    # --- activities and sub-orchestrations: they start now, the future has the outcome

    @overload
    def call_activity(self, activity: ActivityTarget[R], *args: Any, **kwargs: Any) -> asyncio.Future[R]: ...
    @overload
    def call_activity(self, activity: str, *args: Any, **kwargs: Any) -> asyncio.Future[Any]: ...
    def call_activity(self, activity: ActivityTarget[Any] | str, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Schedule an activity now and return the future of its result.

        Raises PayloadError when an argument cannot be written as JSON or does not fit its annotation.
        """
        return self._begun(self._orchestration.call_activity(activity, args, kwargs))

    def call_activity_with_retry(
        self, activity: ActivityTarget[R] | str, retry: RetryPolicy, *args: Any, **kwargs: Any
    ) -> asyncio.Future[R]:
        """As :meth:`call_activity`, tried again as ``retry`` says."""
        return self._begun(self._orchestration.call_activity(activity, args, kwargs, retry))

    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: OrchestratorTarget[R],
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[R]: ...
    @overload
    def call_sub_orchestrator(
        self,
        orchestrator: str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[Any]: ...
    def call_sub_orchestrator(
        self,
        orchestrator: OrchestratorTarget[Any] | str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """Start a sub-orchestration now and return the future of its result.

        ``instance_id`` defaults to one derived from this call. The future raises SubOrchestrationFailedError when the
        child fails, also when another instance has that id. Raises PayloadError and ValueError for bad input.
        """
        call = self._orchestration.call_sub_orchestrator(
            orchestrator, args, kwargs, instance_id=instance_id, version=version
        )
        return self._begun(call)

    def call_sub_orchestrator_with_retry(
        self,
        orchestrator: OrchestratorTarget[R] | str,
        retry: RetryPolicy,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[R]:
        """As :meth:`call_sub_orchestrator`, tried again as ``retry`` says: each time as a new instance."""
        call = self._orchestration.call_sub_orchestrator(
            orchestrator, args, kwargs, instance_id=instance_id, version=version, retry=retry
        )
        return self._begun(call)

    def start_orchestration(
        self,
        orchestrator: OrchestratorTarget[Any] | str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Start an instance that lives by itself and return its id; nothing happens when that id is in use."""
        return self._orchestration.start_orchestration(orchestrator, args, kwargs, instance_id, version)

    def continue_as_new(self, *args: Any, keep_events: bool = True, **kwargs: Any) -> NoReturn:
        """End this execution and begin a new one of the same instance with these arguments and an empty history.

        Received events that nobody waited for go along, unless ``keep_events`` is False. What is outstanding ends as
        when the orchestrator returns: activities and timers are cancelled, children follow their close policy.
        It leaves the code by raising ContinuedAsNew, which is no Exception; ``finally`` blocks run.
        """
        self._orchestration.continue_as_new(args, kwargs, keep_events)

    # --- timers and external events

    def create_timer(self, fire: datetime | timedelta) -> asyncio.Future[None]:
        """A future that is done at ``fire``, a time (with a time zone) or a duration from now.

        A time in the past is done at once. Cancel the future to give the timer up.
        """
        return self._orchestration.create_timer(self._seconds(fire))

    @overload
    def wait_for_external_event(
        self, name: str, type: type[R], *, timeout: float | timedelta | None = None, default: R = ...
    ) -> asyncio.Future[R]: ...
    @overload
    def wait_for_external_event(
        self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = ...
    ) -> asyncio.Future[Any]: ...
    def wait_for_external_event(
        self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = NO_DEFAULT
    ) -> asyncio.Future[Any]:
        """The future of the next external event of that name (case does not count), read as ``type``.

        An event that came before is kept until somebody waits; several who wait are served in order. After ``timeout``
        (seconds or timedelta) the outcome is ``default``, or TimeoutError when there is none.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        return self._orchestration.wait_for_external_event(name, type, seconds, default)

    def send_event(self, instance_id: str, name: str, data: object = None) -> None:
        """Raise an external event to another instance. It is dropped when that one does not exist, or has ended."""
        self._orchestration.send_event(instance_id, name, data)

    # --- HTTP

    def call_http(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, Any] | None = None,
        json: object = None,
        content: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        follow_202: bool = True,
        token_source: str | None = None,
        token_resource: str | None = None,
    ) -> asyncio.Future[Any]:
        """Make an HTTP call as a built-in activity; the future has an ``HttpResponse`` of whatever status.

        A 202 with a ``Location`` is polled with durable timers, as ``Retry-After`` says, until it is something else;
        not with ``follow_202`` False. ``timeout`` (seconds or timedelta) is for one exchange, ``retry`` for failures
        to have one. Headers are recorded in history, so credentials go by name: ``token_source`` (see ``HttpCaller``)
        or a ``Secret`` as a header's value. Raises ValueError for a request that breaks a rule.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        call = self._orchestration.services.http_call(
            self,
            method,
            url,
            headers=headers,
            json=json,
            content=content,
            timeout=seconds,
            retry=retry,
            follow_202=follow_202,
            token_source=token_source,
            token_resource=token_resource,
        )
        return self._begun(call)

    # --- entities

    @overload
    def call_entity(
        self,
        entity: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        key: str,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[R]: ...
    @overload
    def call_entity(
        self, entity: Callable[Concatenate[Any, P], R], key: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]: ...
    @overload
    def call_entity(self, entity: EntityId, operation: str, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]: ...
    def call_entity(self, entity: Any, key: str, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Have an entity do an operation and return the future of its result.

        By method and key, ``ctx.call_entity(Account.deposit, "alice", 10)``, or by id and name,
        ``ctx.call_entity(EntityId("account", "alice"), "deposit", 10)``. The future raises EntityOperationFailedError
        when the operation raised. Raises LockingRulesViolationError (see :meth:`lock`), PayloadError.
        """
        entity_id, operation = operation_of(entity, key)
        return self._begun(self._orchestration.call_entity(str(entity_id), entity_id.name, operation, args, kwargs))

    def signal_entity(
        self, entity: Any, key: str, /, *args: Any, signal_time: datetime | None = None, **kwargs: Any
    ) -> None:
        """Have an entity do an operation, not before ``signal_time``, and do not wait. As :meth:`call_entity`."""
        entity_id, operation = operation_of(entity, key)
        scheduled = None if signal_time is None else _micros(signal_time)
        self._orchestration.signal_entity(str(entity_id), entity_id.name, operation, args, kwargs, scheduled)

    def lock(self, *entities: EntityId) -> CriticalSection:
        """``async with ctx.lock(a, b):`` - no other orchestration's operations reach these entities within the block.

        Within it: calls to these entities only, one at a time each; no sub-orchestrations, no signals to them, no
        second section (LockingRulesViolationError). Locks are taken in one global order, so sections never deadlock.
        """
        if not entities or not all(isinstance(entity, EntityId) for entity in entities):
            raise ValueError(f"lock takes one or more EntityId, not {entities!r}")
        return CriticalSection(self._orchestration, tuple(sorted({str(entity) for entity in entities})))

    # --- what clients see

    def set_custom_status(self, status: object) -> None:
        """Show ``status`` (anything JSON can hold) to clients as soon as this turn is committed."""
        self._orchestration.set_custom_status(status)

    # --- helpers

    def _begun(self, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        return self._orchestration.loop.create_task(call)

    def _seconds(self, fire: datetime | timedelta) -> float:
        if isinstance(fire, timedelta):
            return self._orchestration.loop.time() + fire.total_seconds()
        return self._orchestration.seconds(_micros(fire))


def operation_of(entity: Any, key: str) -> tuple[EntityId, str]:
    """The entity and the operation that a call names: by a method of an entity class and a key, or by id and name."""
    if isinstance(entity, EntityId):
        return entity, key
    name, operation = getattr(entity, "__durable_operation__", (None, ""))
    if name is None:
        raise TypeError(f"{entity!r} is neither an EntityId nor an operation of a class registered with @hub.entity")
    return EntityId(name, key), operation


def _micros(time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(f"date {time!r} has no time zone; use a UTC datetime such as ctx.now + delay")
    return (time - _EPOCH) // timedelta(microseconds=1)
