"""Starting instances, with or without waiting for their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from durable.core.errors import (
    OrchestrationCanceledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
)
from durable.core.ids import check_instance_id
from durable.handle import InstanceHandle
from durable.http import parameters as par
from durable.http.bodies import parse_json, read_body
from durable.http.calls import Call
from durable.http.errors import BadRequestError
from durable.http.links import accepted, create_check_status_response, own_payload
from durable.http.responses import JsonResponse
from durable.http.statuses import status_json
from durable.registry import BUILT_IN

if TYPE_CHECKING:
    from durable.hub import TaskHub

MAX_WAIT = 600.0
"""Seconds for which a request may wait for the end of an instance."""

CONFLICTS = ("raise", "use_existing", "replace_finished", "terminate_existing")


def _function(given: str) -> str:
    if given.startswith(BUILT_IN):  # such as the one by which clients call entities
        raise ValueError(f"names that begin with {BUILT_IN} are the hub's own")
    return given


FUNCTION = par.in_path("functionName", _function, {"minLength": 1, "maxLength": 256}, "The orchestrator's name.")
NEW_ID = par.in_path(
    "instanceId",
    check_instance_id,
    {
        "minLength": 1,
        "maxLength": 256,
        "pattern": r"^[^@/\\#?\u0000-\u001f\u007f-\u009f][^/\\#?\u0000-\u001f\u007f-\u009f]*$",
    },
    "The instance's id: 1 to 256 characters, not starting with @, none of / \\ # ? and no control characters.",
)
TIMEOUT = par.seconds("timeout", "Seconds to wait for the end; without it the answer comes at once.", MAX_WAIT)
POLLING_INTERVAL = par.seconds(
    "pollingInterval",
    "Seconds, at most timeout. Accepted for clients that send it: the end is told, not polled.",
    MAX_WAIT,
)
SPREAD = par.flag("spread", "Whether the body is a JSON array of arguments, in place of the only argument.")
VERSION = par.text("version", "The version to start the instance with.", 256, required=False)
START_AT = par.moment("startAt", "When the instance is to begin; it is Pending until then.")


def _conflict(given: str) -> str | None:
    if given not in CONFLICTS:
        raise ValueError(f"{given[:40]!r} is not one of {', '.join(CONFLICTS)}")
    return given


ON_CONFLICT: par.Parameter[str | None] = par.Parameter(
    "onConflict",
    _conflict,
    None,
    {"type": "string", "enum": list(CONFLICTS), "default": "raise"},
    "What to do when there is an instance of that id.",
)


async def start(call: Call) -> Response:
    """Start an instance; its input is the body."""
    return await _start(call, None)


async def start_with_id(call: Call) -> Response:
    """Start an instance of a given id."""
    return await _start(call, call[NEW_ID])


async def _start(call: Call, instance_id: str | None) -> Response:
    check_waiting(call)
    body = await read_body(call.request, call.options.max_body)
    options: dict[str, Any] = {"start_at": call[START_AT], "on_conflict": call[ON_CONFLICT], "version": call[VERSION]}
    try:
        handle = await call.hub.start(
            call[FUNCTION],
            *_arguments(body, spread=call[SPREAD]),
            instance_id=instance_id,
            **{name: value for name, value in options.items() if value is not None},
        )
    except (TypeError, ValueError) as error:  # the arguments are too many, or too few
        raise BadRequestError(str(error)) from error
    return await started(call, handle)


def _arguments(body: bytes, *, spread: bool) -> list[Any]:
    arguments = [parse_json(body)] if body else []
    if not spread:
        return arguments
    if len(arguments) != 1 or not isinstance(arguments[0], list):
        raise BadRequestError("query parameter 'spread': the body must be a JSON array, one element for each argument")
    return arguments[0]


def check_waiting(call: Call) -> None:
    """Raise BadRequestError for a polling interval longer than the timeout, or without one."""
    timeout, interval = call[TIMEOUT], call[POLLING_INTERVAL]
    if interval is not None and (timeout is None or interval > timeout):
        raise BadRequestError(f"query parameter 'pollingInterval': {interval:g} s needs a timeout at least as long")


async def started(call: Call, handle: InstanceHandle[Any]) -> Response:
    """202 with the links of an instance that was started, or its end if the request waits for it."""
    timeout = call[TIMEOUT]
    if timeout is not None:
        ended = await _end_of(handle, timeout)
        if ended is not None:
            return ended
    return accepted(own_payload(call.request, call.options, handle.instance_id), call.options)


async def _end_of(handle: InstanceHandle[Any], timeout: float) -> Response | None:
    """The answer to who waited for the end; None when it did not come in time. Raises InstanceNotFoundError."""
    try:
        await handle.result(timeout)
    except TimeoutError:
        return None
    except OrchestrationFailedError:
        return JsonResponse(status_json(await handle.status()), 500)
    except (OrchestrationTerminatedError, OrchestrationCanceledError):
        return JsonResponse(status_json(await handle.status()))
    return JsonResponse((await handle.status()).output)


async def wait_for_completion_or_create_check_status_response(
    hub: TaskHub, request: Request, instance_id: str, *, timeout: float = 10.0, base_url: str | None = None
) -> Response:
    """The end of an instance if it comes within ``timeout`` seconds, else what ``create_check_status_response`` gives.

    200 with the output, 200 with the status of one that was terminated or canceled, 500 with the status of one
    that failed. For an endpoint of your own. Raises InstanceNotFoundError, ValueError.
    """
    ended = await _end_of(hub.get(instance_id), timeout)
    return create_check_status_response(request, instance_id, base_url=base_url) if ended is None else ended
