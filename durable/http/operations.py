"""The table of operations: every path of the API, once, with what it takes and what it answers.

Rule of this file: it is the one place where paths, parameters and answers are written down. ``app.py`` makes routes
of it, ``openapi.py`` the document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from starlette.responses import Response

from durable.http import entities, instances, managing, probes, starting
from durable.http.calls import Call
from durable.http.instances import TOKEN_HEADER
from durable.http.parameters import Parameter
from durable.http.responses import JsonResponse

Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: what it means, the schema of its body (None: there is none), the headers it may have."""

    meaning: str
    schema: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One row: ``name`` is the operation's id. ``errors`` are those beyond the ones that any operation may have.

    ``rooted``: the path does not begin with the base path. ``public``: nobody is asked whether it is allowed.
    ``strict``: a query parameter that is not known is an error, for overlooked it would widen what is done.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    handler: Handler
    parameters: tuple[Parameter[Any], ...] = ()
    answers: Mapping[int, Answer] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    body: Literal["json", "json or text"] | None = None
    body_required: bool = False
    rooted: bool = False
    public: bool = False
    strict: bool = False


def _ref(name: str) -> Mapping[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_LINKS = Answer("Started; the body has the links to follow it by.", _ref("Links"), ("Location", "Retry-After"))
_STARTED = {
    200: Answer("It ended in time: the output, or the status of one that was terminated or canceled.", {}),
    202: _LINKS,
    500: Answer("It failed in time: its status; or the request failed.", {"anyOf": [_ref("Status"), _ref("Error")]}),
}
_TOLD = {202: Answer("Taken down durably; the instance gets it soon.")}
_PURGED = {200: Answer("How many instances were deleted.", _ref("Purged"))}
_STATUS = {
    200: Answer("It has ended.", _ref("Status")),
    202: Answer("It has not ended yet.", _ref("Status"), ("Location", "Retry-After")),
    500: Answer(
        "It failed, and the request asked for this; or the request failed.", {"anyOf": [_ref("Status"), _ref("Error")]}
    ),
}
_HEALTH = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
_WAITING = (starting.TIMEOUT, starting.POLLING_INTERVAL)
_START = (*_WAITING, starting.SPREAD, starting.VERSION, starting.START_AT, starting.ON_CONFLICT)
_PAGE = (instances.TOP, instances.CONTINUATION)
_CREATED = (instances.CREATED_TO, instances.STATUSES)
_ENTITY_LIST = (entities.FETCH_STATE, entities.USED_FROM, entities.USED_TO, *_PAGE)


def _list(schema: str) -> Mapping[int, Answer]:
    return {200: Answer("One page.", {"type": "array", "items": _ref(schema)}, (TOKEN_HEADER,))}


def _tell(verb: str, name: str, handler: Handler) -> Operation:
    parameters = (instances.INSTANCE, managing.REASON)
    return Operation("POST", f"/instances/{{instanceId}}/{verb}", name, handler, parameters, _TOLD, (404, 410))


async def makeprimary(call: Call) -> Response:
    """Nothing: all servers of a hub are alike. There for clients that ask for it."""
    return JsonResponse({})


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/orchestrators/{functionName}",
        "startOrchestration",
        starting.start,
        (starting.FUNCTION, *_START),
        _STARTED,
        (409, 413),
        body="json",
    ),
    Operation(
        "POST",
        "/orchestrators/{functionName}/{instanceId}",
        "startOrchestrationWithId",
        starting.start_with_id,
        (starting.FUNCTION, starting.NEW_ID, *_START),
        _STARTED,
        (409, 413),
        body="json",
    ),
    Operation(
        "GET",
        "/instances",
        "listInstances",
        instances.list_instances,
        (instances.CREATED_FROM, *_CREATED, instances.ID_PREFIX, instances.SHOW_INPUT, *_PAGE),
        _list("Status"),
        strict=True,
    ),
    Operation(
        "DELETE",
        "/instances",
        "purgeInstances",
        instances.purge_instances,
        (instances.PURGE_FROM, *_CREATED),
        _PURGED,
        strict=True,
    ),
    Operation(
        "GET",
        "/instances/{instanceId}",
        "getInstanceStatus",
        instances.get_status,
        (
            instances.INSTANCE,
            instances.SHOW_HISTORY,
            instances.SHOW_HISTORY_OUTPUT,
            instances.SHOW_INPUT,
            instances.FAILURE_IS_500,
        ),
        _STATUS,
    ),
    Operation(
        "DELETE",
        "/instances/{instanceId}",
        "purgeInstance",
        instances.purge_instance,
        (instances.INSTANCE,),
        _PURGED,
        (409,),
    ),
    Operation(
        "GET",
        "/instances/{instanceId}/history",
        "getInstanceHistory",
        instances.get_history,
        (instances.INSTANCE, instances.EXECUTION),
        {200: Answer("All events of the execution.", {"type": "array", "items": _ref("HistoryEvent")})},
    ),
    Operation(
        "GET",
        "/instances/{instanceId}/executions",
        "listExecutions",
        instances.list_executions,
        (instances.INSTANCE,),
        {200: Answer("Ids, that of the current execution first.", {"type": "array", "items": {"type": "string"}})},
    ),
    Operation(
        "POST",
        "/instances/{instanceId}/raiseEvent/{eventName}",
        "raiseEvent",
        managing.raise_event,
        (instances.INSTANCE, managing.EVENT),
        _TOLD,
        (410, 413),
        body="json",
        body_required=True,
    ),
    _tell("terminate", "terminateInstance", managing.terminate),
    _tell("cancel", "cancelInstance", managing.cancel),
    _tell("suspend", "suspendInstance", managing.suspend),
    _tell("resume", "resumeInstance", managing.resume),
    Operation(
        "POST",
        "/instances/{instanceId}/rewind",
        "rewindInstance",
        managing.rewind,
        (instances.INSTANCE, managing.REASON),
        _TOLD,
        (409, 410),
    ),
    Operation(
        "POST",
        "/instances/{instanceId}/restart",
        "restartInstance",
        managing.restart,
        (instances.INSTANCE, managing.WITH_NEW_ID, *_WAITING),
        _STARTED,
        (409,),
    ),
    Operation(
        "GET",
        "/entities",
        "listEntities",
        entities.list_all,
        _ENTITY_LIST,
        _list("EntityRow"),
        strict=True,
    ),
    Operation(
        "GET",
        "/entities/{entityName}",
        "listEntitiesOfName",
        entities.list_of_name,
        (entities.NAME, *_ENTITY_LIST),
        _list("EntityRow"),
        strict=True,
    ),
    Operation(
        "GET",
        "/entities/{entityName}/{entityKey}",
        "getEntity",
        entities.get_state,
        (entities.NAME, entities.KEY),
        {200: Answer("Its state.", {})},
    ),
    Operation(
        "POST",
        "/entities/{entityName}/{entityKey}",
        "signalEntity",
        entities.signal,
        (entities.NAME, entities.KEY, entities.OPERATION),
        _TOLD,
        (413,),
        body="json or text",
    ),
    Operation(
        "DELETE",
        "/entities/{entityName}/{entityKey}",
        "deleteEntity",
        entities.delete,
        (entities.NAME, entities.KEY),
        _TOLD,
    ),
    Operation("POST", "/makeprimary", "makePrimary", makeprimary, answers={200: Answer("Done.", {"type": "object"})}),
    Operation(
        "GET",
        "/healthz",
        "isAlive",
        probes.alive,
        answers={200: Answer("The process answers.", _HEALTH)},
        rooted=True,
        public=True,
    ),
    Operation(
        "GET",
        "/readyz",
        "isReady",
        probes.ready,
        answers={200: Answer("The store answers and the worker is healthy.", _HEALTH)},
        rooted=True,
        public=True,
    ),
)
