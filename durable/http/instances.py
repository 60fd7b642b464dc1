"""Looking at instances: one, many, their histories; and purging them."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime

from starlette.responses import Response

from durable.core.errors import InstanceNotFoundError
from durable.core.ids import check_instance_id
from durable.core.state import RuntimeStatus
from durable.http import parameters as par
from durable.http.calls import Call
from durable.http.errors import BadRequestError, answer
from durable.http.histories import all_events, projected
from durable.http.links import NEXT_POLL, own_payload
from durable.http.responses import JsonResponse
from durable.http.starting import NEW_ID
from durable.http.statuses import status_json

INSTANCE = par.in_path("instanceId", check_instance_id, NEW_ID.schema, "The instance's id.")
SHOW_HISTORY = par.flag("showHistory", "Whether the status has historyEvents.")
SHOW_HISTORY_OUTPUT = par.flag("showHistoryOutput", "Whether historyEvents have inputs and results.")
EXECUTION = par.text("executionId", "A former execution, as long as its history is kept.", 256)
SHOW_INPUT = par.flag("showInput", "Whether the status has the input.", default=True)
FAILURE_IS_500 = par.flag("returnInternalServerErrorOnFailure", "Whether a failed instance is answered with 500.")
CREATED_FROM = par.moment("createdTimeFrom", "Only instances created at this time or later.")
PURGE_FROM = par.moment("createdTimeFrom", "Only instances created at this time or later.", required=True)
CREATED_TO = par.moment("createdTimeTo", "Only instances created at this time or earlier.")
STATUSES = par.statuses("runtimeStatus", "Only instances with one of these statuses, separated by commas.")
ID_PREFIX = par.text("instanceIdPrefix", "Only instances whose id begins so.", 256)
TOP = par.whole_number("top", "How many to give at most; the header x-ms-continuation-token leads on.", 1, 1000, 100)

TOKEN_HEADER = "x-ms-continuation-token"
CONTINUATION: par.Parameter[str | None] = par.Parameter(
    TOKEN_HEADER,
    lambda given: decode_token(given),
    None,
    {"type": "string"},
    "Where the page before ended, as its answer's header of this name says.",
    "header",
)

_TERMINAL = tuple(status for status in RuntimeStatus if status.is_terminal)


async def get_status(call: Call) -> Response:
    """How one instance stands."""
    handle = call.hub.get(call[INSTANCE])
    status = await handle.status()
    body = status_json(status, show_input=call[SHOW_INPUT])
    if (link := await call.hub.trace_url(status.instance_id)) is not None:
        body["traceUrl"] = link
    if call[SHOW_HISTORY]:
        body["historyEvents"] = projected(await handle.history(), show_output=call[SHOW_HISTORY_OUTPUT])
    if not status.runtime_status.is_terminal:
        location = own_payload(call.request, call.options, status.instance_id)["statusQueryGetUri"]
        wait = call.options.retry_after or NEXT_POLL
        return JsonResponse(body, 202, {"Location": location, "Retry-After": str(wait)})
    failed = status.runtime_status is RuntimeStatus.FAILED
    return JsonResponse(body, 500 if failed and call[FAILURE_IS_500] else 200)


async def get_history(call: Call) -> Response:
    """All events of one execution."""
    return JsonResponse(all_events(await call.hub.get(call[INSTANCE]).history(execution_id=call[EXECUTION])))


async def list_executions(call: Call) -> Response:
    """The ids of the executions whose history is there, newest first."""
    return JsonResponse(await call.hub.get(call[INSTANCE]).executions())


async def list_instances(call: Call) -> Response:
    """The instances that match, newest first, a page at a time."""
    if call[STATUSES] == ():
        return JsonResponse([])  # only such as no instance has
    try:
        query = call.hub.query(
            status=call[STATUSES],
            id_prefix=call[ID_PREFIX],
            created_between=(call[CREATED_FROM], call[CREATED_TO]),
            page_size=call[TOP],
            continuation=call[CONTINUATION],
        )
        page = await anext(query.pages())
    except (ValueError, OverflowError) as error:  # the token is of no page of this store
        raise BadRequestError(f"header {TOKEN_HEADER!r}: it is not one that a page gave") from error
    headers = {} if page.continuation is None else {TOKEN_HEADER: encode_token(page.continuation)}
    show_input = call[SHOW_INPUT]
    return JsonResponse([status_json(one, show_input=show_input) for one in page.instances], headers=headers)


async def purge_instance(call: Call) -> Response:
    """Delete one finished instance and its sub-orchestrations."""
    return _purged(await call.hub.get(call[INSTANCE]).purge())


async def purge_instances(call: Call) -> Response:
    """Delete the finished instances that match."""
    end = call[CREATED_TO] or datetime.now(UTC)
    asked = call[STATUSES]
    wanted = tuple(status for status in _TERMINAL if asked is None or status in asked)
    deleted = 0
    if wanted:
        deleted = await call.hub.query(status=wanted, created_between=(call[PURGE_FROM], end)).purge()
    if not deleted:
        return answer(404, InstanceNotFoundError.__name__, "no finished instance matches")
    return _purged(deleted)


def _purged(count: int) -> Response:
    return JsonResponse({"instancesDeleted": count})


def encode_token(token: str) -> str:
    """A continuation as a header can carry it, whatever ids it holds."""
    return base64.urlsafe_b64encode(token.encode()).decode()


def decode_token(given: str) -> str | None:
    """The continuation that :func:`encode_token` made; none for an empty header. Raises ValueError."""
    try:
        return base64.b64decode(given.encode("ascii"), altchars=b"-_", validate=True).decode() or None
    except (binascii.Error, UnicodeError):
        raise ValueError("it is not one that a page gave") from None
