"""Definitions: the decorated functions that users write, and what calling one means.

Rule of this file: a definition is typed as the function it wraps. Called inside an orchestrator it
is a durable call; called anywhere else it runs the plain function, so that user code can be
tested without a hub.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from copy import copy
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from durable.core.context import OrchestrationContext, running_orchestration
from durable.core.errors import RegistrationError
from durable.payloads import CallCodec, decode, encode

P = ParamSpec("P")
R = TypeVar("R")


class Activity(Generic[P, R]):
    """A side-effecting function that orchestrators call; it runs at least once per call.

    ``fn`` is the function itself, ``name`` the one it is known by in history.
    """

    def __init__(
        self, fn: Callable[P, Coroutine[Any, Any, R]] | Callable[P, R], name: str | None, timeout: timedelta | None
    ) -> None:
        _refuse_generators(fn, "activity")
        self.fn = fn
        self.name: str = check_name(name or fn.__name__, fn)
        self.timeout: int | None = _microseconds(timeout, self.name)
        self.is_async: bool = inspect.iscoroutinefunction(fn)
        self.codec: CallCodec = CallCodec(fn, f"activity {self.name!r}")
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        orchestration = running_orchestration()
        if orchestration is not None:
            return orchestration.call_activity(self, args, kwargs)
        if self.is_async:
            return cast("Callable[P, Coroutine[Any, Any, R]]", self.fn)(*args, **kwargs)
        return self._run_plain(*args, **kwargs)

    async def _run_plain(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("Callable[P, R]", self.fn)(*args, **kwargs)

    def options(self, *, timeout: timedelta | None = None) -> Activity[P, R]:
        """This activity with other options for the calls made through the copy.

        ``timeout`` bounds one attempt; when it runs out the call fails with
        ActivityFailedError (``details.error_type`` ActivityTimeoutError).
        """
        changed = copy(self)
        changed.timeout = _microseconds(timeout, self.name)
        return changed

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The stored form of a call's arguments. Raises PayloadError for those that do not fit."""
        return self.codec.encode_arguments(args, kwargs)

    def decode_result(self, payload: str) -> R:
        """The result as the return annotation says."""
        result: R = self.codec.decode_result(payload)
        return result

    def __repr__(self) -> str:
        return f"<activity {self.name!r}>"


class UntypedActivity:
    """An activity known by name only: registered in other workers. Plain JSON in and out."""

    timeout: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The stored form of a call's arguments; nothing is known to check them against."""
        return encode_untyped(args, kwargs, f"activity {self.name!r}")

    def decode_result(self, payload: str) -> Any:
        """The plain JSON value."""
        return decode(payload)


class Orchestrator(Generic[P, R]):
    """A deterministic ``async def`` function whose awaits are checkpoints.

    Its first parameter is the :class:`OrchestrationContext`. ``fn`` is the function itself, for
    unit tests.
    """

    def __init__(self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], name: str | None):
        _check_orchestrator(fn)
        self.fn = fn
        self.name: str = check_name(name or fn.__name__, fn)
        self.codec: CallCodec = CallCodec(fn, f"orchestrator {self.name!r}", skip_first=True)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def begin(self, context: OrchestrationContext, payload: str) -> Coroutine[Any, Any, R]:
        """The orchestrator's coroutine for stored arguments; what does not fit them is raised when it runs."""
        return self._run(context, payload)

    async def _run(self, context: OrchestrationContext, payload: str) -> R:
        args, kwargs = self.codec.decode_arguments(payload)
        return await self.fn(context, *args, **kwargs)

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The stored form of a start's arguments. Raises PayloadError for those that do not fit."""
        return self.codec.encode_arguments(args, kwargs)

    def decode_result(self, payload: str) -> R:
        """The result as the return annotation says."""
        result: R = self.codec.decode_result(payload)
        return result

    def __repr__(self) -> str:
        return f"<orchestrator {self.name!r}>"


def encode_untyped(args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> str:
    """The stored form of a call to something known by name only."""
    return encode({"args": args, "kwargs": kwargs} if kwargs else args, f"the arguments of {what}")


def check_name(name: str, fn: Callable[..., Any]) -> str:
    """Return a definition's name, or raise RegistrationError naming the rule it breaks."""
    if not name or len(name) > 256 or name != name.strip() or not name.isprintable() or name == "<lambda>":
        raise RegistrationError(
            f"{name!r} ({where_defined(fn)}) cannot name a definition: it must have 1 to 256 printable characters "
            "without space at either end; pass name="
        )
    return name


def where_defined(fn: Callable[..., Any]) -> str:
    """Qualified name and file of a function, for error messages."""
    code = getattr(fn, "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}" if code else "unknown file"
    return f"{getattr(fn, '__qualname__', fn)}, {place}"


def _refuse_generators(fn: Callable[..., Any], kind: str) -> None:
    if not callable(fn):
        raise RegistrationError(f"{fn!r} is not a function and cannot be an {kind}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise RegistrationError(f"{kind} {where_defined(fn)} is a generator; return a list instead of yielding")


def _check_orchestrator(fn: Callable[..., Any]) -> None:
    _refuse_generators(fn, "orchestrator")
    if not inspect.iscoroutinefunction(fn):
        raise RegistrationError(f"orchestrator {where_defined(fn)} must be an `async def` function")
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    takes_position = first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    annotation = "" if first is None else getattr(first.annotation, "__name__", str(first.annotation))
    if first is None or not takes_position or not (first.name == "ctx" or "OrchestrationContext" in annotation):
        raise RegistrationError(
            f"orchestrator {where_defined(fn)} must take the context as its first parameter: "
            "`async def name(ctx: OrchestrationContext, ...)`"
        )


def _microseconds(duration: timedelta | None, name: str) -> int | None:
    if duration is None:
        return None
    if duration <= timedelta(0):
        raise ValueError(f"timeout of activity {name!r} must be longer than zero, not {duration}")
    return duration // timedelta(microseconds=1)
