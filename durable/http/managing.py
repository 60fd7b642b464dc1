"""Telling instances something: events, suspend, resume, terminate, cancel, rewind, restart.

Rule of this file: each answer is 202 with an empty body, given when the request is durable. What may not be told to
an instance is the client's errors, turned into statuses in ``errors.py``.
"""

from __future__ import annotations

from starlette.responses import Response

from durable.core.errors import InstanceNotFoundError
from durable.core.ids import check_event_name
from durable.http import parameters as par
from durable.http.bodies import media_type, parse_json, read_body
from durable.http.calls import Call
from durable.http.errors import BadRequestError
from durable.http.instances import INSTANCE
from durable.http.starting import check_waiting, started

EVENT = par.in_path(
    "eventName",
    check_event_name,
    {"minLength": 1, "maxLength": 256, "pattern": "^[ -~]+$"},
    "The event's name: 1 to 256 printable characters; case does not count.",
)
REASON = par.text("reason", "Why, for those who look later.", 4096)
WITH_NEW_ID = par.flag("restartWithNewInstanceId", "Whether the new instance gets an id of its own.", default=True)


async def raise_event(call: Call) -> Response:
    """Raise an external event; its data is the body."""
    body = await read_body(call.request, call.options.max_body)
    if media_type(call.request) != "application/json":
        raise BadRequestError("Only application/json request content is supported")
    await call.hub.get(call[INSTANCE]).raise_event(call[EVENT], parse_json(body) if body else None)
    return _accepted()


async def terminate(call: Call) -> Response:
    """End an instance and its sub-orchestrations without asking their code."""
    await call.hub.get(call[INSTANCE]).terminate(call[REASON])
    return _accepted()


async def cancel(call: Call) -> Response:
    """Cancel an orchestrator, so that it can clean up."""
    await call.hub.get(call[INSTANCE]).cancel(call[REASON])
    return _accepted()


async def suspend(call: Call) -> Response:
    """Have an instance stand still."""
    await call.hub.get(call[INSTANCE]).suspend(call[REASON])
    return _accepted()


async def resume(call: Call) -> Response:
    """Have a suspended instance go on."""
    await call.hub.get(call[INSTANCE]).resume(call[REASON])
    return _accepted()


async def rewind(call: Call) -> Response:
    """Have a failed instance go on from before its first failure."""
    await call.hub.get(call[INSTANCE]).rewind(call[REASON])
    return _accepted()


async def restart(call: Call) -> Response:
    """Start an instance's orchestrator with its input once more."""
    check_waiting(call)
    try:
        handle = await call.hub.get(call[INSTANCE]).restart(new_id=call[WITH_NEW_ID])
    except InstanceNotFoundError as error:  # 400 in Durable Functions, too
        raise BadRequestError(str(error)) from error
    return await started(call, handle)


def _accepted() -> Response:
    return Response(status_code=202)
