"""Versions of orchestrations: which a worker runs."""

from __future__ import annotations

import re
from enum import StrEnum


class VersionMatch(StrEnum):
    """Which instances a worker of a version runs; one without a version is older than any other.

    The values are those of the Durable Task SDKs' version match strategies.
    """

    NONE = "none"
    """All: versions are not looked at."""
    STRICT = "strict"
    """Those of the same version."""
    CURRENT_OR_OLDER = "current_or_older"
    """Those of the same version or an older one."""


class VersionFailure(StrEnum):
    """What becomes of a new instance whose version the worker does not run."""

    REJECT = "reject"
    """It is parked until a worker runs it."""
    FAIL = "fail"
    """It fails with VersionMismatchError. One that has begun is parked all the same."""


def matches(rule: VersionMatch, worker: str | None, instance: str | None) -> bool:
    """Whether a worker of version ``worker`` runs an instance of version ``instance``."""
    match rule:
        case VersionMatch.NONE:
            return True
        case VersionMatch.STRICT:
            return worker == instance
        case VersionMatch.CURRENT_OR_OLDER:
            return _key(instance) <= _key(worker)


def _key(version: str | None) -> list[tuple[int, int, str]]:
    """Parts in order, numbers by their value: "1.10" comes after "1.9", and "2.0-beta" before "2.0"."""
    parts = re.findall(r"\d+|[^\W\d_]+", version or "")
    return [*((1, int(part), "") if part.isdigit() else (0, 0, part.lower()) for part in parts), (1, -1, "")]
