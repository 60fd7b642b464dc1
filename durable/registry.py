"""The registry: definitions by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from durable.core.context import ActivityTarget, OrchestrationContext
from durable.core.errors import RegistrationError, UnknownFunctionError
from durable.definitions import Activity, Orchestrator, UntypedActivity, where_defined

P = ParamSpec("P")
R = TypeVar("R")


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

    @overload
    def activity(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def activity(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    @overload
    def activity(self, *, name: str | None = None, timeout: timedelta | None = None) -> ActivityDecorator: ...
    def activity(
        self, fn: Callable[..., Any] | None = None, *, name: str | None = None, timeout: timedelta | None = None
    ) -> Any:
        """Register an activity: ``async def``, or ``def`` (which runs in a thread).

        ``name`` defaults to the function's. ``timeout`` bounds one attempt. Raises RegistrationError
        for a generator, a bad name, or a name that is taken.
        """

        def register(fn: Callable[..., Any]) -> Activity[Any, Any]:
            definition: Activity[Any, Any] = Activity(fn, name, timeout)
            _add(self.activities, definition, "activity")
            return definition

        return register if fn is None else register(fn)

    @overload
    def orchestrator(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def orchestrator(self, *, name: str | None = None) -> OrchestratorDecorator: ...
    def orchestrator(self, fn: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
        """Register an orchestrator: an ``async def`` whose first parameter is the context.

        ``name`` defaults to the function's. Raises RegistrationError for a function that is not
        ``async def``, is a generator, lacks the context parameter, or whose name is taken.
        """

        def register(fn: Callable[..., Any]) -> Orchestrator[Any, Any]:
            definition: Orchestrator[Any, Any] = Orchestrator(fn, name)
            _add(self.orchestrators, definition, "orchestrator")
            return definition

        return register if fn is None else register(fn)

    def include(self, other: Registry) -> None:
        """Take in all definitions of ``other``. Raises RegistrationError when a name is taken by another function."""
        for activity in other.activities.values():
            _add(self.activities, activity, "activity")
        for orchestrator in other.orchestrators.values():
            _add(self.orchestrators, orchestrator, "orchestrator")

    def find_orchestrator(self, name: str) -> Orchestrator[Any, Any]:
        """The orchestrator of that name. Raises UnknownFunctionError listing near names."""
        found = self.orchestrators.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("orchestrator", name, self.orchestrators))
        return found

    def find_activity(self, name: str) -> Activity[Any, Any]:
        """The activity of that name. Raises UnknownFunctionError listing near names."""
        found = self.activities.get(name)
        if found is None:
            raise UnknownFunctionError(_unknown("activity", name, self.activities))
        return found

    def activity_target(self, name: str) -> ActivityTarget[Any]:
        """The activity of that name, or a target without types when only other workers know it."""
        return self.activities.get(name) or UntypedActivity(name)

    def prepare(self) -> None:
        """Resolve all annotations. Raises RegistrationError for one that JSON cannot carry."""
        for activity in self.activities.values():
            activity.codec.prepare()
        for orchestrator in self.orchestrators.values():
            orchestrator.codec.prepare()


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
    near = get_close_matches(name, table, n=3)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"registered: {', '.join(sorted(table)) or 'none'}"
    )
    return f"no {kind} is registered as {name!r}; {hint}"
