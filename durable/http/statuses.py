"""The status of an instance as JSON: the names of Durable Functions, and a few of ours behind them.

Rule of this file: values only, and no stack traces: those are for logs and for who reads the store.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from durable.core.errors import FailureDetails
from durable.core.state import RuntimeStatus
from durable.handle import InstanceStatus


def status_json(status: InstanceStatus, *, show_input: bool = True) -> dict[str, Any]:
    """The status as clients of Durable Functions read it.

    ``output`` of a failed instance is its error as text, of a canceled one the reason.
    """
    return {
        "name": status.name,
        "instanceId": status.instance_id,
        "runtimeStatus": status.runtime_status.value,
        "input": body_of(status.input) if show_input else None,
        "customStatus": status.custom_status,
        "output": _output(status),
        "createdTime": to_the_second(status.created_at),
        "lastUpdatedTime": to_the_second(status.last_updated_at),
        "executionId": status.execution_id,
        "parentInstanceId": status.parent_instance_id,
        "version": status.version,
        "tags": dict(status.tags),
        "failureDetails": None if status.failure is None else failure_json(status.failure),
        "problem": status.problem,
    }


def body_of(arguments: Any) -> Any:
    """What a client would send to give these arguments: the only one as it is, none as null, several as the list."""
    if isinstance(arguments, list) and len(arguments) <= 1:
        return arguments[0] if arguments else None
    return arguments


def failure_json(failure: FailureDetails) -> dict[str, Any]:
    """A failure with its causes, without the stacks."""
    return {
        "errorType": failure.error_type,
        "errorMessage": failure.message,
        "innerFailure": None if failure.cause is None else failure_json(failure.cause),
        "isNonRetriable": bool(failure.non_retryable),
    }


def _output(status: InstanceStatus) -> Any:
    if status.failure is None:
        return status.output
    if status.runtime_status is RuntimeStatus.FAILED:
        return f"{status.failure.error_type}: {status.failure.message}"
    return status.failure.message


def to_the_second(time: datetime) -> str:
    """``2026-01-31T12:00:00Z``: a UTC time as the statuses of Durable Functions have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
