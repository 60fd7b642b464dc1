"""Payloads: values written as JSON by orjson, and read back by annotation through pydantic.

Rule of this file: what is sent is checked against the receiver's annotations before anything
is scheduled, and no value is changed silently (a NaN is an error, not ``null``). No pickle, ever.

Arguments are stored as a JSON array of the positional ones; where a keyword argument is
given, as ``{"args": [...], "kwargs": {...}}``.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any, get_type_hints

import orjson
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from durable.core.errors import PayloadError, PayloadTooLargeError, RegistrationError

MAX_PAYLOAD = 10 * 1024 * 1024
"""Bytes of JSON that one value may have, offloaded or not (the Durable Functions cap)."""

_TIMEDELTA = TypeAdapter(timedelta)


def encode(value: object, what: str) -> str:
    """``value`` as JSON text. ``what`` names it in the error.

    Raises:
        PayloadError: a part of it has no JSON form; the message gives the path to it and its type.
        PayloadTooLargeError: the text has more than ``MAX_PAYLOAD`` bytes.
    """
    try:
        data = orjson.dumps(value, default=_to_json)
    except TypeError:
        data = _encode_with_odd_keys(value, what)
    text = data.decode()
    if "null" in text and value is not None:
        _refuse_nan(value, what)
    if len(data) > MAX_PAYLOAD:
        raise PayloadTooLargeError(
            f"{what} has {len(data):,} bytes as JSON; the limit is {MAX_PAYLOAD:,}. Store it elsewhere and pass its key"
        )
    return text


def canonical(payload: str) -> str:
    """JSON text with the keys of its objects in order, so that texts of equal values are equal."""
    if "{" not in payload:
        return payload
    return orjson.dumps(orjson.loads(payload), option=orjson.OPT_SORT_KEYS).decode()


def decode(payload: str) -> Any:
    """The plain JSON value of ``payload``, for receivers without annotations."""
    return orjson.loads(payload)


def reader(annotation: Any, what: str) -> Callable[[str], Any]:
    """Reads JSON text as a value of ``annotation``; it raises PayloadError, naming ``what``, when it does not fit."""
    if annotation is Any:
        return decode
    validator = _validator_of(annotation)

    def read(payload: str) -> Any:
        try:
            return validator.validate_json(payload)
        except ValidationError as error:
            first = error.errors()[0]
            raise PayloadError(
                f"{what}{_path(first['loc'])} does not fit {annotation!r}: {first['msg']} "
                f"(got {_short(first['input'])})"
            ) from None

    return read


def _validator_of(annotation: Any) -> Any:
    try:
        return _cached_validator(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return TypeAdapter(annotation).validator


@lru_cache(maxsize=256)
def _cached_validator(annotation: Any) -> Any:
    return TypeAdapter(annotation).validator


class CallCodec:
    """How the arguments and the result of one function are written and read, by its annotations.

    ``skip_first`` leaves out the context parameter of an orchestrator. The annotations are resolved at
    the first use, since they may name classes that are defined later in the module.
    """

    def __init__(self, fn: Callable[..., Any], what: str, *, skip_first: bool = False) -> None:
        self._fn = fn
        self._what = what
        self._arguments, self._of_result = f"the arguments of {what}", f"the result of {what}"
        parameters = list(inspect.signature(fn).parameters.values())[1 if skip_first else 0 :]
        self._signature = inspect.Signature(parameters)
        self._positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._required = sum(1 for p in self._positional if p.default is p.empty)
        self._plain = all(p in self._positional or p.default is not p.empty for p in parameters)
        self._hints: Mapping[str, Any] | None = None
        self._by_count: dict[int, TypeAdapter[Any]] = {}
        self._by_name: dict[str, TypeAdapter[Any]] = {}
        self._result: TypeAdapter[Any] | None = None

    def prepare(self) -> None:
        """Resolve the annotations now. Raises RegistrationError for one that JSON cannot carry."""
        self._adapter(len(self._positional))
        self._result_adapter()
        for parameter in self._signature.parameters.values():
            self._parameter_adapter(parameter.name)

    def encode_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The stored form of a call.

        Raises TypeError like the call itself, and PayloadError for a value that does not fit.
        """
        if kwargs or not self._plain or not self._required <= len(args) <= len(self._positional):
            return self._encode_bound(args, kwargs)
        try:
            (self._by_count.get(len(args)) or self._adapter(len(args))).validator.validate_python(args)
        except ValidationError as error:
            raise self._misfit(error, lambda location: self._positional[location].name) from None
        return encode(args, self._arguments)

    def encode_result(self, result: object) -> str:
        """The stored form of a result. Raises PayloadError when a part of it has no JSON form."""
        return encode(result, self._of_result)

    def decode_arguments(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that :meth:`encode_arguments` stored, as the annotations say."""
        if self._plain and self._required == len(self._positional):
            try:
                adapter = self._by_count.get(self._required) or self._adapter(self._required)
                return adapter.validator.validate_json(payload), {}
            except ValidationError:
                return self._decode_counted(payload)  # fewer, more, by name, or wrong: there it is said which
        return self._decode_counted(payload)

    def _decode_counted(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if payload.startswith("{"):
            return self._decode_bound(payload)
        values = orjson.loads(payload)
        if not isinstance(values, list):
            raise PayloadError(f"the arguments of {self._what} must be a JSON array, not {payload[:80]}")
        if not self._plain or not self._required <= len(values) <= len(self._positional):
            return self._validated(values, {})
        try:
            args: tuple[Any, ...] = self._adapter(len(values)).validator.validate_json(payload)
        except ValidationError as error:
            raise self._misfit(error, lambda location: self._positional[location].name) from None
        return args, {}

    def decode_result(self, payload: str) -> Any:
        """The result, as the return annotation says. Raises PayloadError when it does not fit."""
        try:
            return (self._result or self._result_adapter()).validator.validate_json(payload)
        except ValidationError as error:
            first = error.errors()[0]
            path = _path(first["loc"])
            raise PayloadError(
                f"the result of {self._what}{path} does not fit its return annotation: {first['msg']} "
                f"(got {_short(first['input'])})"
            ) from None

    # --- calls with keyword arguments, defaults before others, *args or **kwargs

    def _encode_bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._what}: {error}") from None
        self._validate(args, kwargs, from_json=False)
        return encode({"args": args, "kwargs": kwargs} if kwargs else args, self._arguments)

    def _decode_bound(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        stored = orjson.loads(payload)
        if not isinstance(stored.get("args"), list) or not isinstance(stored.get("kwargs"), dict):
            raise PayloadError(
                f'the arguments of {self._what} must be a JSON array, or {{"args": [...], "kwargs": {{...}}}}; '
                f"got {payload[:80]}"
            )
        return self._validated(stored["args"], stored["kwargs"])

    def _validated(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadError(f"the stored arguments do not fit {self._what}: {error}") from None
        return self._validate(tuple(args), kwargs, from_json=True)

    def _validate(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, from_json: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = [p.name for p in self._positional]
        variadic = next((p.name for p in self._signature.parameters.values() if p.kind is p.VAR_POSITIONAL), "")
        extra = next((p.name for p in self._signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
        done_args = tuple(
            self._check(names[i] if i < len(names) else variadic, value, from_json) for i, value in enumerate(args)
        )
        done_kwargs = {
            name: self._check(name if name in self._signature.parameters else extra, value, from_json, name)
            for name, value in kwargs.items()
        }
        return done_args, done_kwargs

    def _check(self, name: str, value: Any, from_json: bool, shown: str | None = None) -> Any:
        validator = self._parameter_adapter(name).validator
        try:
            return validator.validate_json(orjson.dumps(value)) if from_json else validator.validate_python(value)
        except ValidationError as error:
            raise self._misfit(error, lambda _: shown or name, located=False) from None

    # --- annotations

    def _type(self, name: str) -> Any:
        if self._hints is None:
            try:
                self._hints = get_type_hints(self._fn, include_extras=True)
            except Exception as error:
                raise RegistrationError(
                    f"{self._what} ({_origin(self._fn)}): its annotations cannot be resolved: {error}. "
                    "Import the names it uses at module level, outside `if TYPE_CHECKING`"
                ) from error
        return self._hints.get(name, Any)

    def _adapter(self, count: int) -> TypeAdapter[Any]:
        found = self._by_count.get(count)
        if found is None:
            types = tuple(self._type(p.name) for p in self._positional[:count])
            found = self._by_count[count] = self._build(tuple[types] if types else tuple[()], "its parameters")  # type: ignore[valid-type]
        return found

    def _parameter_adapter(self, name: str) -> TypeAdapter[Any]:
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = self._build(self._type(name), f"parameter {name!r}")
        return found

    def _result_adapter(self) -> TypeAdapter[Any]:
        if self._result is None:
            self._result = self._build(self._type("return"), "the return annotation")
        return self._result

    def _build(self, annotation: Any, what: str) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            reason = str(error).partition("\n")[0]
            raise RegistrationError(
                f"{self._what} ({_origin(self._fn)}): {what} cannot be carried as JSON: {reason}"
            ) from error

    def _misfit(self, error: ValidationError, parameter: Callable[[int], str], *, located: bool = True) -> PayloadError:
        first = error.errors()[0]
        location = list(first["loc"])
        name = parameter(int(location.pop(0)) if located and location else 0)
        return PayloadError(
            f"{self._what}: argument {name}{_path(location)} does not fit its annotation: {first['msg']} "
            f"(got {_short(first['input'])})"
        )


# --- writing what orjson does not know ---------------------------------------------------------


def _to_json(value: Any) -> Any:
    """JSON forms that pydantic reads back into the same type."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case Decimal() | PurePath():
            return str(value)
        case timedelta():
            return _TIMEDELTA.dump_python(value, mode="json")
        case set() | frozenset():
            return _sorted_members(value)
        case deque() | tuple():
            return list(value)
        case bytes():
            return value.decode()  # UnicodeDecodeError is a ValueError: not JSON text
        case _:
            raise TypeError(f"{type(value).__qualname__} has no JSON form")


def _sorted_members(members: set[Any] | frozenset[Any]) -> list[Any]:
    # Sorted by their text: the order of a set of strings differs from process to process.
    return sorted(members, key=repr)


def _encode_with_odd_keys(value: object, what: str) -> bytes:
    """Second try: dictionaries with keys that are not strings (slower, so not the first)."""
    try:
        return orjson.dumps(value, default=_to_json, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        path, culprit = _culprit(value, "")
        cause = error.__cause__ or error
        raise PayloadError(
            f"{what}{f' at {path}' if path else ''}: {_short(culprit)} of type {type(culprit).__qualname__} cannot be "
            f"written as JSON ({cause}); use dataclasses, pydantic models, enums, dates, UUIDs, numbers, text, "
            "lists and dictionaries"
        ) from None


def _culprit(value: Any, path: str) -> tuple[str, Any]:
    """The innermost part of ``value`` that cannot be written."""
    for key, part in _parts(value):
        try:
            orjson.dumps(part, default=_to_json, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:
            return _culprit(part, f"{path}{key}")
    return path, value


def _refuse_nan(value: Any, what: str, path: str = "") -> None:
    """orjson writes NaN and infinities as null; that would change the value silently."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PayloadError(f"{what}{f' at {path}' if path else ''}: {value!r} has no JSON form; use None or text")
    for key, part in _parts(value):
        _refuse_nan(part, what, f"{path}{key}")


def _parts(value: Any) -> list[tuple[str, Any]]:
    match value:
        case dict():
            return [(f"[{key!r}]", part) for key, part in value.items()]
        case list() | tuple() | set() | frozenset() | deque():
            return [(f"[{index}]", part) for index, part in enumerate(value)]
        case BaseModel():
            return [(f".{name}", getattr(value, name)) for name in type(value).model_fields]
        case _ if hasattr(type(value), "__dataclass_fields__"):
            return [(f".{name}", getattr(value, name)) for name in type(value).__dataclass_fields__]
        case _:
            return []


def _path(location: Any) -> str:
    return "".join(f"[{part!r}]" for part in location)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _origin(fn: Callable[..., Any]) -> str:
    code = getattr(fn, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(fn)
