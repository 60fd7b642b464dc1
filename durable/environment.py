"""Settings from environment variables: names, and text read as the type that a field has.

Rule of this file: a type has one reader, in one table; what cannot be read is an error that names variable, value and
rule. It knows no setting: the fields of a dataclass say which variables there are.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from durable.core.ids import check_hub_name

PREFIX = "DURABLE_"
URL = "DURABLE_URL"
HUB = "DURABLE_HUB"
EVENT_LOOP = "DURABLE_EVENT_LOOP"
DEFAULT_URL = "sqlite:///durable.db"
DEFAULT_HUB = "default"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_LOOKS_LIKE = 0.75  # of difflib's measure, from 0 to 1: a letter or an underscore wrong, not another word


def parse_duration(text: str) -> timedelta:
    """A duration such as ``30d``, ``1.5h`` or ``250ms``; a number alone is seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"a duration is a number and one of {', '.join(_UNITS)}, as in 30d or 90s")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])
    except OverflowError as error:
        raise ValueError(f"a duration is at most {timedelta.max.days} days") from error


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text.strip()):
        raise ValueError("it must be a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it must be a number") from None


_READERS: dict[type[Any], Callable[[str], Any]] = {
    int: _integer,
    float: _number,
    str: str,
    timedelta: parse_duration,
}
"""How text is read as a value, by type. A field of another type needs its reader here."""


def read_as(hint: Any, text: str) -> Any:
    """``text`` as a value of type ``hint``. Raises ValueError saying what it must be.

    Beside the types of the table: enums by value, unions by the first member that can read it (empty text is None
    where None is allowed), mappings as ``key=value,key=value``, and tuples of one type as ``a,b``.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(hint), text)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, value = get_args(hint)
        return _read_mapping(key, value, text)
    if origin is tuple:
        return tuple(read_as(get_args(hint)[0], part.strip()) for part in text.split(","))
    if isinstance(hint, type) and issubclass(hint, Enum):
        values = [str(member.value) for member in hint]
        if text not in values:
            raise ValueError(f"it must be one of {', '.join(values)}")
        return hint(text)
    return _READERS[hint](text)


def _read_union(members: tuple[Any, ...], text: str) -> Any:
    if not text and type(None) in members:
        return None
    problems = []
    for member in members:
        if member is not type(None):
            try:
                return read_as(member, text)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError("; or ".join(problems))


def _read_mapping(key: Any, value: Any, text: str) -> dict[Any, Any]:
    read: dict[Any, Any] = {}
    for part in text.split(","):
        name, separator, rest = part.partition("=")
        if not separator:
            raise ValueError(f"it must be key=value, separated by commas; {part!r} has no '='")
        read[read_as(key, name.strip())] = read_as(value, rest.strip())
    return read


def read_settings(cls: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the dataclass ``cls`` that ``environ`` sets: ``lease_time`` by ``DURABLE_LEASE_TIME``.

    Raises ValueError for a value that cannot be read, and for a variable that is nearly one of these names. Other names
    with the prefix are left to whom they belong.
    """
    hints = get_type_hints(cls)
    variables = {PREFIX + field.name.upper(): field.name for field in fields(cls) if field.init}
    _refuse_misspelt(environ, [*variables, URL, HUB, EVENT_LOOP])
    read: dict[str, Any] = {}
    for variable, name in variables.items():
        if (text := environ.get(variable)) is not None:
            try:
                read[name] = read_as(hints[name], text)
            except ValueError as error:
                raise ValueError(f"environment variable {variable}={text!r}: {error}") from error
    return read


def _refuse_misspelt(environ: Mapping[str, str], known: list[str]) -> None:
    plain = {_without_underscores(name): name for name in known}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = get_close_matches(_without_underscores(variable), plain, n=1, cutoff=_LOOKS_LIKE)
            if near:
                given = f"environment variable {variable}={environ[variable]!r}"
                raise ValueError(f"{given} is no setting; did you mean {plain[near[0]]}?")


def _without_underscores(variable: str) -> str:
    return variable.removeprefix(PREFIX).replace("_", "")


def hub_location(url: str | None, name: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """URL and name of a hub: the arguments, else ``DURABLE_URL`` and ``DURABLE_HUB``, else a SQLite file here.

    A variable without text counts as not set. Raises ValueError for a bad ``DURABLE_HUB``.
    """
    if url is None:
        url = environ.get(URL) or DEFAULT_URL
    if name is None and environ.get(HUB):
        try:
            name = check_hub_name(environ[HUB])
        except ValueError as error:
            raise ValueError(f"environment variable {HUB}={environ[HUB]!r}: {error}") from error
    return url, DEFAULT_HUB if name is None else name
