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
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast, get_args

from durable.core.context import OrchestrationContext
from durable.core.errors import RegistrationError
from durable.core.event_parts import QueuePlace
from durable.core.ids import check_instance_id
from durable.core.orchestration_loop import running_orchestration
from durable.core.retry import RetryPolicy
from durable.payloads import CallCodec, decode, encode
from durable.queues import queue_place
from durable.retaining import Kept, Retain, parse_retain

P = ParamSpec("P")
R = TypeVar("R")

ParentClose: TypeAlias = Literal["terminate", "cancel", "abandon"]
"""What becomes of a child that runs when its parent ends."""


class Activity(Generic[P, R]):
    """A side-effecting function that orchestrators call; it runs at least once per call.

    ``fn`` is the function itself, ``name`` the one it is known by in history.
    """

    def __init__(
        self,
        fn: Callable[P, Coroutine[Any, Any, R]] | Callable[P, R],
        name: str | None,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
        queue: str | None = None,
        priority: int | None = None,
    ) -> None:
        _refuse_generators(fn, "activity")
        self.fn = fn
        self.name: str = check_name(name or fn.__name__, fn)
        self.timeout: int | None = _microseconds(timeout, "timeout", self.name)
        self.heartbeat_timeout: int | None = _microseconds(heartbeat_timeout, "heartbeat_timeout", self.name)
        self.retry: RetryPolicy | None = retry
        self.queue: QueuePlace | None = queue_place(None, queue, priority, None, f"activity {self.name!r}")
        self.is_async: bool = inspect.iscoroutinefunction(fn)
        self.transactional: bool = transactional
        if transactional and not self.is_async:
            raise RegistrationError(
                f"transactional activity {self.name!r} must be an `async def`: its session is asynchronous"
            )
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

    def options(
        self,
        *,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        queue: str | None = None,
        priority: int | None = None,
        key: str | None = None,
    ) -> Activity[P, R]:
        """This activity with other options for the calls made through the copy; what is left out stays as it is.

        ``timeout`` bounds one attempt; when it runs out the attempt fails with ActivityTimeoutError. So does one
        that does not call ``ActivityContext.heartbeat`` within ``heartbeat_timeout``. ``retry`` says whether
        and when a failed attempt is followed by another; the call fails with the last one's ActivityFailedError.
        ``queue`` is where it waits for a worker, ``priority`` (-1000 to 1000) its urgency there, ``key`` with which
        other calls it shares the queue's ``per_key``. Raises ValueError for a duration or priority out of range, and
        for priority or key without a queue.
        """
        changed = copy(self)
        changed.retry = retry or self.retry
        changed.timeout = _microseconds(timeout, "timeout", self.name) or self.timeout
        changed.heartbeat_timeout = (
            _microseconds(heartbeat_timeout, "heartbeat_timeout", self.name) or self.heartbeat_timeout
        )
        changed.queue = queue_place(self.queue, queue, priority, key, f"activity {self.name!r}")
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
    heartbeat_timeout: int | None = None
    retry: RetryPolicy | None = None
    queue: QueuePlace | None = None

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
    unit tests. Called in an orchestrator, without the context, it is a sub-orchestration.
    """

    def __init__(
        self,
        fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]],
        name: str | None,
        retain: Retain | None = None,
    ) -> None:
        _check_orchestrator(fn)
        self.fn = fn
        self.name: str = check_name(name or fn.__name__, fn)
        self.retry: RetryPolicy | None = None
        self.instance_id: str | None = None
        self.version: str | None = None
        self.parent_close: str = "terminate"
        self.retain: Kept | None = None if retain is None else parse_retain(retain, f"retain of {self.name!r}")
        self.codec: CallCodec = CallCodec(fn, f"orchestrator {self.name!r}", skip_first=True)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, None, R]:
        orchestration = running_orchestration()
        if orchestration is None:
            raise RuntimeError(
                f"orchestrator {self.name!r} was called outside an orchestrator; start an instance of it with "
                "hub.start, or test its function with .fn"
            )
        return orchestration.call_sub_orchestrator(self, args, kwargs)

    def options(
        self,
        *,
        instance_id: str | None = None,
        retry: RetryPolicy | None = None,
        version: str | None = None,
        parent_close: ParentClose | None = None,
    ) -> Orchestrator[P, R]:
        """This orchestrator with other options for the sub-orchestrations called through the copy.

        ``instance_id`` is the child's (by default one is derived from the call), ``version`` the one it is started
        with. ``parent_close`` says what becomes of a child that runs when its parent ends: ``"terminate"`` (the
        default), ``"cancel"``, or ``"abandon"``: it goes on alone. Raises ValueError for anything else.
        """
        if parent_close not in (None, *get_args(ParentClose)):
            raise ValueError(f"parent_close must be 'terminate', 'cancel' or 'abandon', not {parent_close!r}")
        changed = copy(self)
        changed.instance_id = check_instance_id(instance_id) if instance_id is not None else self.instance_id
        changed.retry = retry or self.retry
        changed.version = version or self.version
        changed.parent_close = parent_close or self.parent_close
        return changed

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


class UntypedOrchestrator:
    """An orchestrator known by name only: registered in other workers. Plain JSON in and out."""

    retry: RetryPolicy | None = None
    instance_id: str | None = None
    version: str | None = None
    parent_close: str = "terminate"

    def __init__(self, name: str) -> None:
        self.name = name

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The stored form of a call's arguments; nothing is known to check them against."""
        return encode_untyped(args, kwargs, f"orchestrator {self.name!r}")

    def decode_result(self, payload: str) -> Any:
        """The plain JSON value."""
        return decode(payload)


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


def _microseconds(duration: timedelta | None, what: str, name: str) -> int | None:
    if duration is None:
        return None
    if duration <= timedelta(0):
        raise ValueError(f"{what} of activity {name!r} must be longer than zero, not {duration}")
    return duration // timedelta(microseconds=1)
