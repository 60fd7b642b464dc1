"""Starts at a later time, as records show them.

Rule of this file: no field of their own. A Pending record is due when its instance is to begin.
"""

from __future__ import annotations

from durable.backend import InstanceRecord
from durable.core.state import RuntimeStatus


def scheduled_for(record: InstanceRecord) -> int | None:
    """When an instance is to begin that was started for a later time and has not begun; None for all others.

    Where it was started for at once, it is due at its creation, which another machine's clock may have told.
    """
    if record.status is not RuntimeStatus.PENDING or record.due_at is None or record.due_at <= record.created_at:
        return None
    return record.due_at
