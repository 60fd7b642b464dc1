"""Entity definitions: a class with typed state, whose public methods are the operations.

Rule of this file: what the class says, and how its state and its calls are written. Running is the worker's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from pydantic import BaseModel

from durable.core.errors import PayloadError, RegistrationError, UnknownFunctionError
from durable.core.ids import check_entity_name
from durable.payloads import CallCodec, encode, reader

DELETE = "delete"
"""The operation that every entity has: it forgets its state."""


class Operation:
    """One operation of an entity: a method, and how its arguments and its result are written."""

    def __init__(self, entity: str, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.name: str = fn.__name__
        self.is_async: bool = inspect.iscoroutinefunction(fn)
        self.codec: CallCodec = CallCodec(fn, f"operation {self.name!r} of entity {entity!r}", skip_first=True)

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The stored form of a call's arguments. Raises PayloadError for those that do not fit."""
        return self.codec.encode_arguments(args, kwargs)

    def decode_result(self, payload: str) -> Any:
        """The result as the return annotation says."""
        return self.codec.decode_result(payload)


def _make_dataclass(cls: type[Any]) -> None:
    try:
        dataclass(cls)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"entity class {cls.__qualname__} ({cls.__module__}): {error}") from None


class Entity:
    """A registered entity class. Its state is its fields; a new one is made by calling it without arguments."""

    def __init__(self, cls: type[Any], name: str | None) -> None:
        if not inspect.isclass(cls):
            raise RegistrationError(f"{cls!r} is not a class and cannot be an entity")
        try:
            self.name: str = check_entity_name(name or cls.__name__)
        except ValueError as error:
            raise RegistrationError(
                f"entity class {cls.__qualname__} ({cls.__module__}): {error}; pass name="
            ) from None
        if not (is_dataclass(cls) or issubclass(cls, BaseModel)):
            _make_dataclass(cls)
        self.cls = cls
        self.operations: dict[str, Operation] = {fn.__name__: Operation(self.name, fn) for fn in _methods(cls)}
        self._check_constructible()
        for operation in self.operations.values():
            operation.fn.__durable_operation__ = (self.name, operation.name)  # type: ignore[attr-defined]

    def _check_constructible(self) -> None:
        try:
            inspect.signature(self.cls).bind()
        except TypeError as error:
            raise RegistrationError(
                f"entity class {self.cls.__qualname__} ({self.cls.__module__}) must be constructible without arguments "
                f"({error}); give every field a default"
            ) from None

    def prepare(self) -> None:
        """Resolve all annotations. Raises RegistrationError for one that JSON cannot carry."""
        try:
            self.decode_state(self.encode_state(self.cls()))
        except PayloadError as error:
            raise RegistrationError(
                f"entity class {self.cls.__qualname__} ({self.cls.__module__}): its default state cannot be carried "
                f"as JSON: {error}"
            ) from error
        for operation in self.operations.values():
            operation.codec.prepare()

    def operation(self, name: str) -> Operation:
        """The operation of that name. Raises UnknownFunctionError naming those there are."""
        found = self.operations.get(name)
        if found is None:
            names = ", ".join(sorted({*self.operations, DELETE}))
            raise UnknownFunctionError(f"entity {self.name!r} has no operation {name!r}; it has: {names}")
        return found

    def encode_state(self, state: object) -> str:
        """The stored form of a state. Raises PayloadError for one that JSON cannot carry."""
        return encode(state, f"the state of entity {self.name!r}")

    def decode_state(self, payload: str) -> Any:
        """The state that was stored. Raises PayloadError when it does not fit the class any more."""
        return reader(self.cls, f"the stored state of entity {self.name!r}")(payload)

    def __repr__(self) -> str:
        return f"<entity {self.name!r}>"


def _methods(cls: type[Any]) -> Iterator[Any]:
    """The public methods that users wrote, a derived class's before those of its bases."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base is object or base.__module__.partition(".")[0] == "pydantic":
            continue
        for name, member in vars(base).items():
            if inspect.isfunction(member) and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield member
