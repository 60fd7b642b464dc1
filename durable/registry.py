"""The registry: definitions by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from durable.core.context import OrchestrationContext
from durable.core.errors import RegistrationError, UnknownFunctionError
from durable.core.retry import RetryPolicy
from durable.core.services import ActivityTarget, CallTarget, OrchestratorTarget
from durable.definitions import Activity, Orchestrator, UntypedActivity, UntypedOrchestrator, where_defined
from durable.entities import DELETE, Entity
from durable.queues import ActivityQueue
from durable.retaining import Retain

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


BUILT_IN = "BuiltIn::"
"""How the names of definitions begin that every hub has."""


class ActivityDecorator(Protocol):
    """What ``@registry.activity(...)`` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...


class OrchestratorDecorator(Protocol):
    """What ``@registry.orchestrator(...)`` with options returns."""

    def __call__(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...


class Registry:
    """Orchestrators and activities of a module or a hub, by name."""

    def __init__(self) -> None:
        self.orchestrators: dict[str, Orchestrator[Any, Any]] = {}
        self.activities: dict[str, Activity[Any, Any]] = {}
        self.entities: dict[str, Entity] = {}
        self.queues: dict[str, ActivityQueue] = {}

    @overload
    def activity(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def activity(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    @overload
    def activity(
        self,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
        queue: str | None = None,
        priority: int | None = None,
    ) -> ActivityDecorator: ...
    def activity(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Any:
        """Register an activity: ``async def``, or ``def`` (which runs in a thread).

        ``name`` defaults to the function's. A ``transactional`` one gets ``ActivityContext.current().session``: what it
        writes to MongoDB with that session and its completion are committed together, exactly once. Others are the
        defaults of :meth:`Activity.options`. Raises RegistrationError for a generator, a bad name, or a name that
        is taken, ValueError for options out of range.
        """

        def register(fn: Callable[..., Any]) -> Activity[Any, Any]:
            definition: Activity[Any, Any] = Activity(
                fn, name, timeout, heartbeat_timeout, retry, transactional, queue, priority
            )
            _add(self.activities, definition, "activity")
            return definition

        return register if fn is None else register(fn)

    @overload
    def orchestrator(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def orchestrator(self, *, name: str | None = None, retain: Retain | None = None) -> OrchestratorDecorator: ...
    def orchestrator(
        self, fn: Callable[..., Any] | None = None, *, name: str | None = None, retain: Retain | None = None
    ) -> Any:
        """Register an orchestrator: an ``async def`` whose first parameter is the context.

        ``name`` defaults to the function's. ``retain`` says how long its instances are kept after they ended, in place
        of the setting of that name (``{}``: for ever). Raises RegistrationError for a function that is not ``async
        def``, is a generator, lacks the context parameter, or whose name is taken; ValueError or TypeError for a
        ``retain`` that cannot be.
        """

        def register(fn: Callable[..., Any]) -> Orchestrator[Any, Any]:
            definition: Orchestrator[Any, Any] = Orchestrator(fn, name, retain)
            _add(self.orchestrators, definition, "orchestrator")
            return definition

        return register if fn is None else register(fn)

    @overload
    def entity(self, cls: type[T], /) -> type[T]: ...
    @overload
    def entity(self, *, name: str | None = None) -> Callable[[type[T]], type[T]]: ...
    def entity(self, cls: type[Any] | None = None, *, name: str | None = None) -> Any:
        """Register an entity: a class whose fields are its state and whose public methods are its operations.

        Fields need defaults, as a new entity is made without arguments; a class that is neither a dataclass nor a
        pydantic model is made a dataclass. Operations may be ``async``. ``name`` defaults to the class's, in lower
        case. Raises RegistrationError for a class that breaks a rule, or a name that is taken.
        """

        def register(cls: type[T]) -> type[T]:
            self._add_entity(Entity(cls, name))
            return cls

        return register if cls is None else register(cls)

    def _add_entity(self, definition: Entity) -> None:
        present = self.entities.get(definition.name)
        if present is not None and present.cls is not definition.cls:
            raise RegistrationError(
                f"entity name {definition.name!r} of {definition.cls.__qualname__} is taken by "
                f"{present.cls.__qualname__} ({present.cls.__module__}); pass name= to one of them"
            )
        self.entities[definition.name] = definition

    def queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        worker_concurrency: int | None = None,
        per_key: int | None = None,
        rate: float | None = None,
        burst: int | None = None,
        ageing: timedelta | None = None,
    ) -> ActivityQueue:
        """Register a queue, in which calls of activities wait for a worker that serves it.

        At once run at most ``concurrency`` of its calls in the whole hub, ``worker_concurrency`` in one worker,
        ``per_key`` of those that were called with the same key. ``rate`` is how many may start in a second, after a
        rest up to ``burst`` (1) at once. The higher priority goes first, and each ``ageing`` of waiting raises it by
        one. What is left out has no limit. Raises RegistrationError for a bad name or limit, and for a name that is
        taken by a queue with other limits.
        """
        return self._add_queue(ActivityQueue(name, concurrency, worker_concurrency, per_key, rate, burst, ageing))

    def _add_queue(self, queue: ActivityQueue) -> ActivityQueue:
        if self.queues.setdefault(queue.name, queue) != queue:
            raise RegistrationError(f"queue {queue.name!r} is registered already, with other limits")
        return queue

    def include(self, other: Registry) -> None:
        """Take in all definitions of ``other``. Raises RegistrationError when a name is taken by another function."""
        for activity in other.activities.values():
            _add(self.activities, activity, "activity")
        for orchestrator in other.orchestrators.values():
            _add(self.orchestrators, orchestrator, "orchestrator")
        for entity in other.entities.values():
            self._add_entity(entity)
        for queue in other.queues.values():
            self._add_queue(queue)

    def find_orchestrator(self, name: str) -> Orchestrator[Any, Any]:
        """The orchestrator of that name. Raises UnknownFunctionError listing near names."""
        found = self.orchestrators.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("orchestrator", name, self.orchestrators))
        return found

    @property
    def has_orchestrators(self) -> bool:
        """Whether the user's orchestrators are registered here; a process that is a client only may have none."""
        return any(not name.startswith(BUILT_IN) for name in self.orchestrators)

    def find_activity(self, name: str) -> Activity[Any, Any]:
        """The activity of that name. Raises UnknownFunctionError listing near names."""
        found = self.activities.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("activity", name, self.activities))
        return found

    def find_entity(self, name: str) -> Entity:
        """The entity class of that name. Raises UnknownFunctionError listing near names."""
        found = self.entities.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("entity", name, self.entities))
        return found

    def find_queue(self, name: str) -> ActivityQueue:
        """The queue of that name. Raises UnknownFunctionError listing near names."""
        found = self.queues.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("queue", name, self.queues))
        return found

    def activity_target(self, name: str) -> ActivityTarget[Any]:
        """The activity of that name, or a target without types when only other workers know it."""
        return self.activities.get(name) or UntypedActivity(name)

    def orchestrator_target(self, name: str) -> OrchestratorTarget[Any]:
        """The orchestrator of that name, or a target without types when only other workers know it."""
        return self.orchestrators.get(name) or UntypedOrchestrator(name)

    def operation_target(self, entity: str, name: str) -> CallTarget[Any]:
        """An operation of an entity, or a target without types when only other workers know it.

        Raises UnknownFunctionError for an operation that an entity known here does not have.
        """
        known = self.entities.get(entity)
        if known is None or (name == DELETE and DELETE not in known.operations):
            return UntypedActivity(name)
        return known.operation(name)

    def prepare(self) -> None:
        """Resolve all annotations. Raises RegistrationError for one that JSON cannot carry.

        Raises UnknownFunctionError for an activity whose queue is not registered.
        """
        for activity in self.activities.values():
            activity.codec.prepare()
            if activity.queue is not None:
                self.find_queue(activity.queue.name)
        for orchestrator in self.orchestrators.values():
            orchestrator.codec.prepare()
        for entity in self.entities.values():
            entity.prepare()


D = TypeVar("D", Activity[Any, Any], Orchestrator[Any, Any])


def _add(table: dict[str, D], definition: D, kind: str) -> None:
    present = table.get(definition.name)
    if present is not None and present.fn is not definition.fn:
        raise RegistrationError(
            f"{kind} name {definition.name!r} of {where_defined(definition.fn)} is taken by "
            f"{where_defined(present.fn)}; pass name= to one of them"
        )
    table[definition.name] = definition


def _unknown(kind: str, name: str, table: Mapping[str, object]) -> str:
    known = sorted(one for one in table if not one.startswith(BUILT_IN))
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"registered: {', '.join(known) or 'none'}"
    return f"no {kind} is registered as {name!r}; {hint}"
