"""Parameters of requests: read into strict types, and described for the OpenAPI document.

Rule of this file: a parameter is one value that both reads and describes it; what does not fit is refused with the
parameter's name and its rule. Nothing but text, numbers, truth values and times comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from durable.core.state import RuntimeStatus
from durable.http.errors import BadRequestError

T = TypeVar("T")

UNUSED_STATUSES = ("ContinuedAsNew", "Unknown")
"""Statuses that clients of Durable Functions may ask for, and that no instance has here."""


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T]):
    """One parameter. ``read`` makes its value of text and raises ValueError with the rule; ``default`` is for none."""

    name: str
    read: Callable[[str], T]
    default: T
    schema: Mapping[str, Any]
    description: str
    place: Literal["query", "path", "header"] = "query"
    required: bool = field(default=False)

    def value(self, given: str | None) -> T:
        """The value for what the request gives. Raises BadRequestError."""
        if given is None:
            if self.required:
                raise BadRequestError(f"{self.place} parameter {self.name!r} is required: {self.description}")
            return self.default
        try:
            return self.read(given)
        except ValueError as error:
            raise BadRequestError(f"{self.place} parameter {self.name!r}: {error}") from error


def flag(name: str, description: str, *, default: bool = False) -> Parameter[bool]:
    """``true`` or ``false``, in any case."""
    return Parameter(name, _boolean, default, {"type": "boolean", "default": default}, description)


def text(name: str, description: str, limit: int, *, required: bool = False) -> Parameter[str | None]:
    """Text of at most ``limit`` characters."""

    def read(given: str) -> str:
        if not (required <= len(given) <= limit):
            raise ValueError(f"must have {int(required)} to {limit} characters, not {len(given)}")
        return given

    schema = {"type": "string", "maxLength": limit, "minLength": int(required)}
    return Parameter(name, read, None, schema, description, required=required)


def moment(name: str, description: str, *, required: bool = False) -> Parameter[datetime | None]:
    """A date and time in ISO 8601; without a zone it is UTC."""
    schema = {"type": "string", "format": "date-time"}
    return Parameter(name, _moment, None, schema, description, required=required)


def whole_number(name: str, description: str, lowest: int, highest: int, default: int) -> Parameter[int]:
    """A whole number between bounds."""

    def read(given: str) -> int:
        if not (given.isascii() and given.isdigit() and len(given) <= 12 and lowest <= int(given) <= highest):
            raise ValueError(f"{given[:40]!r} is not a whole number from {lowest} to {highest}")
        return int(given)

    schema = {"type": "integer", "minimum": lowest, "maximum": highest, "default": default}
    return Parameter(name, read, default, schema, description)


def seconds(name: str, description: str, highest: float) -> Parameter[float | None]:
    """A number of seconds above zero."""

    def read(given: str) -> float:
        value = _number(given)
        if not 0 < value <= highest:
            raise ValueError(f"{given[:40]!r} is not a number of seconds above 0, at most {highest:g}")
        return value

    schema = {"type": "number", "exclusiveMinimum": 0, "maximum": highest}
    return Parameter(name, read, None, schema, description)


def statuses(name: str, description: str) -> Parameter[tuple[RuntimeStatus, ...] | None]:
    """Runtime statuses separated by commas, in any case; those that no instance has match nothing."""
    known = [status.value for status in RuntimeStatus] + list(UNUSED_STATUSES)
    by_name: dict[str, RuntimeStatus | None] = {status.lower(): RuntimeStatus(status) for status in RuntimeStatus}
    by_name |= {status.lower(): None for status in UNUSED_STATUSES}

    def read(given: str) -> tuple[RuntimeStatus, ...]:
        words = [word.strip().lower() for word in given.split(",")]
        unknown = next((word for word in words if word not in by_name), None)
        if unknown is not None:
            raise ValueError(f"{unknown[:40]!r} is no runtime status; there are: {', '.join(known)}")
        return tuple(dict.fromkeys(found for word in words if (found := by_name[word]) is not None))

    schema = {"type": "array", "items": {"type": "string", "enum": known}, "minItems": 1}
    return Parameter(name, read, None, schema, description)


def in_path(name: str, read: Callable[[str], str], schema: Mapping[str, Any], description: str) -> Parameter[str]:
    """A part of the path, decoded."""
    return Parameter(name, read, "", {"type": "string", **schema}, description, "path", required=True)


def _boolean(given: str) -> bool:
    if given.lower() not in ("true", "false"):
        raise ValueError(f"{given[:40]!r} is not true or false")
    return given.lower() == "true"


def _moment(given: str) -> datetime:
    try:
        value = datetime.fromisoformat(given.upper() if given[-1:] in "zZ" else given)
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        hint = "; write '+' as %2B in a URL" if " " in given.strip() else ""
        raise ValueError(
            f"{given[:40]!r} is not a date and time such as 2026-01-31T12:00:00Z (years 1 to 9999){hint}"
        ) from None


def _number(given: str) -> float:
    try:
        return float(given) if given.isascii() and "_" not in given else math.nan
    except ValueError:
        return math.nan
