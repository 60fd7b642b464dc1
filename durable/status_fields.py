"""What the HTTP API and the command line say of an instance beyond the fields of Durable Functions.

Rule of this file: JSON values only, and its names are a promise to scripts and clients.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from durable.handle import InstanceStatus


def to_the_second(time: datetime) -> str:
    """``2026-01-31T12:00:00Z``: a time, in UTC, as the statuses of Durable Functions have it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def own_fields(status: InstanceStatus) -> dict[str, Any]:
    """Our own fields of a status."""
    return {
        "completedTime": _moment(status.completed_at),
        "executionId": status.execution_id,
        "version": status.version,
        "tags": dict(status.tags),
        "problem": status.problem,
        "parentInstanceId": status.parent_instance_id,
        "rootInstanceId": status.root_instance_id,
        "scheduledStartTime": _moment(status.scheduled_start_at),
        "purgeTime": _moment(status.purge_at),
        "hold": status.hold,
        "forkedFrom": None if status.forked_from is None else asdict(status.forked_from),
    }


def _moment(time: datetime | None) -> str | None:
    return None if time is None else to_the_second(time)
