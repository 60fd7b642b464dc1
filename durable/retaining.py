"""Retention: how long an instance that has ended is kept, as users say it and as the engine counts it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TypeAlias

from durable.core.state import RuntimeStatus

Retain: TypeAlias = timedelta | Mapping[RuntimeStatus, timedelta]
"""How long instances are kept after they ended: all, or by how they ended; a status that is not named is for ever."""

Kept: TypeAlias = Mapping[RuntimeStatus, int]
"""The same in microseconds."""

_MICROSECOND = timedelta(microseconds=1)
_LONGEST = timedelta(days=365_000)
_TERMINAL = [status for status in RuntimeStatus if status.is_terminal]


def parse_retain(retain: Retain, what: str) -> Kept:
    """``retain`` in microseconds; ``what`` names it in the errors.

    Raises TypeError for anything but a timedelta or a mapping to such, and ValueError for a status in which no instance
    ends and for a time that is not longer than zero or beyond a thousand years.
    """
    if isinstance(retain, timedelta):
        return dict.fromkeys(_TERMINAL, _microseconds(retain, what))
    if not isinstance(retain, Mapping):
        raise TypeError(f"{what} must be a timedelta, or a mapping of RuntimeStatus to timedelta, not {retain!r}")
    kept: dict[RuntimeStatus, int] = {}
    for status, duration in retain.items():
        if status not in _TERMINAL:
            ends = ", ".join(one.value for one in _TERMINAL)
            raise ValueError(f"{what} names {status!r}; instances end as one of {ends}")
        kept[RuntimeStatus(status)] = _microseconds(duration, f"{what} of {RuntimeStatus(status).value}")
    return kept


def _microseconds(duration: timedelta, what: str) -> int:
    if not isinstance(duration, timedelta):
        raise TypeError(f"{what} must be a timedelta, not {duration!r}")
    if not timedelta(0) < duration <= _LONGEST:
        raise ValueError(f"{what} must be longer than zero and at most {_LONGEST.days} days, not {duration}")
    return duration // _MICROSECOND
