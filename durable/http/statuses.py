"""The status of an instance as JSON: the names of Durable Functions, and a few of ours behind them.

Rule of this file: values only, and no stack traces: those are for logs and for who reads the store.
"""

from __future__ import annotations

from typing import Any

from durable.core.errors import FailureDetails
from durable.core.state import RuntimeStatus
from durable.handle import InstanceStatus
from durable.status_fields import own_fields, to_the_second


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
        "failureDetails": None if status.failure is None else failure_json(status.failure),
        **own_fields(status),
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
