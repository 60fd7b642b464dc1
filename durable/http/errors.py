"""Errors as answers: which exception gets which status, and the one shape they all have.

Rule of this file: an answer names what was wrong and the rule, and never shows a stack or an error that nobody
foresaw; such a one goes to the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from durable.core.errors import DurableError, InstanceNotFailedError
from durable.core.state import RuntimeStatus
from durable.http.responses import JsonResponse

_log = logging.getLogger("durable.http")

_STATUSES = {
    "InstanceNotFoundError": 404,
    "InstanceExistsError": 409,
    "InstanceNotFinishedError": 409,
    "InstanceHeldError": 409,
    "InstanceFinishedError": 410,
    "PayloadTooLargeError": 413,
    "PayloadError": 400,
    "UnknownFunctionError": 400,
    "BackendUnavailable": 503,
}
"""By the name of an error's class, or else of the nearest of its bases."""

_NAMES = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 413: "BodyTooLarge"}


class BadRequestError(Exception):
    """The request breaks a rule; the message names the parameter and the rule."""


def error_response(error: Exception) -> Response:
    """The answer to a request that ended with ``error``."""
    match error:
        case BadRequestError():
            return answer(400, "BadRequest", str(error))
        case HTTPException():
            if error.status_code == 405 or error.detail == "Not Found":  # the router's; 404 as in Durable Functions
                return answer(404, "NotFound", "there is nothing at this path for this method")
            return answer(
                error.status_code, _NAMES.get(error.status_code, "HTTPException"), error.detail, error.headers
            )
        case ClientDisconnect():
            return answer(400, "BadRequest", "the request broke off before its body was complete")
        case InstanceNotFailedError():
            return answer(_of_not_failed(error), type(error).__name__, str(error))
        case DurableError():
            names = [kind.__name__ for kind in type(error).__mro__]
            status = next((_STATUSES[name] for name in names if name in _STATUSES), 500)
            if status == 500:
                _log.error("a request failed", exc_info=error)
            retry = {"Retry-After": "5"} if status == 503 else None
            return answer(status, type(error).__name__, str(error), retry)
        case _:
            _log.error("a request failed by an unforeseen error", exc_info=error)
            return answer(500, "InternalError", "the request failed by an error that nobody foresaw; the log has it")


def answer(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the shape that all have: ``{"error": {"type", "message"}}``."""
    return JsonResponse({"error": {"type": kind, "message": message}}, status, headers)


def _of_not_failed(error: InstanceNotFailedError) -> int:
    return 410 if RuntimeStatus(error.status).is_terminal else 409
