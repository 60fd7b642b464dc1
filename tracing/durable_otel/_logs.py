"""Log fields: which instance, activity and span a record was made in."""

from __future__ import annotations

import logging

from opentelemetry import trace

from durable.activity_context import ActivityContext

FIELDS = ("instance_id", "execution_id", "activity", "task_id", "attempt", "trace_id", "span_id")
"""The fields that every record has after the filter; None where they do not apply."""


class InstanceLogFilter(logging.Filter):
    """Adds FIELDS to records, those of other libraries too. Put it on handlers: a logger's filter misses its children.

    Fields that a record has already, as those of ``ctx.logger`` do, are left as they are. It lets every record pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        found: dict[str, object] = dict.fromkeys(FIELDS)
        attempt = ActivityContext.find()
        if attempt is not None:
            found |= {
                "instance_id": attempt.instance_id,
                "execution_id": attempt.execution_id,
                "activity": attempt.name,
                "task_id": attempt.task_id,
                "attempt": attempt.attempt,
            }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            found |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        for name, value in found.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
