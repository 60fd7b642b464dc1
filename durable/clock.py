"""Time as a parameter: everything outside the core that needs "now" is given a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Returns the time as integer microseconds since the epoch, UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def system_clock() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000


def to_datetime(timestamp: int) -> datetime:
    """A UTC datetime from stored microseconds."""
    return _EPOCH + timedelta(microseconds=timestamp)


def from_datetime(moment: datetime) -> int:
    """Stored microseconds from a datetime. Raises ValueError when it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"datetime {moment!r} has no time zone; use datetime.now(UTC) or .replace(tzinfo=UTC)")
    return (moment - _EPOCH) // MICROSECOND
