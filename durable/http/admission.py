"""Letting a request in: first whether it may, then whether its parameters follow their rules.

Rule of this file: nothing is read of a request, and nothing asked of the hub, before somebody allowed it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from durable.http.access import Access, permit
from durable.http.anonymous import refusal
from durable.http.calls import Call, Options
from durable.http.errors import BadRequestError
from durable.http.operations import Operation
from durable.http.parameters import Parameter

if TYPE_CHECKING:
    from durable.hub import TaskHub

_log = logging.getLogger("durable.http")

_CONNECTION = "Storage"
"""The name that links of Durable Functions give to the only store there is."""


def _connection(given: str) -> str:
    if given.lower() != _CONNECTION.lower():
        raise ValueError(f"{given[:40]!r} is not known: this API has one store, {_CONNECTION!r}; leave it out")
    return given


TASK_HUB: Parameter[str | None] = Parameter(
    "taskHub", str, None, {"type": "string"}, "The task hub's name; another one is not found here."
)
CONNECTION: Parameter[str | None] = Parameter(
    "connection", _connection, None, {"type": "string", "enum": [_CONNECTION]}, "For clients that send it."
)
COMMON: tuple[Parameter[Any], ...] = (TASK_HUB, CONNECTION)
"""Query parameters of every operation but the public ones."""

_CODE = "code"
"""Where the links of Durable Functions have a key; whether it is good is for the authorizer."""


class Gate:
    """Admits requests to one application; says in the log, once for each reason, that it refuses anonymous ones."""

    def __init__(self, hub: TaskHub, options: Options) -> None:
        self._hub = hub
        self._options = options
        self._told: set[str] = set()

    async def admit(self, request: Request, operation: Operation) -> Call:
        """The request as its handler wants it. Raises HTTPException, BadRequestError."""
        if operation.public:
            return Call(self._hub, request, self._options, {})
        await self._allow(request, operation)
        query = self._query(request, operation)
        values = {one.name: _read(one, request, query) for one in (*operation.parameters, *COMMON)}
        hub = values[TASK_HUB.name]
        if hub is not None and hub.lower() != self._hub.name.lower():
            raise HTTPException(
                404, f"query parameter 'taskHub': this is task hub {self._hub.name!r}, not {hub[:63]!r}"
            )
        return Call(self._hub, request, self._options, values)

    async def _allow(self, request: Request, operation: Operation) -> None:
        if self._options.authorize is not None:
            await permit(self._options.authorize, _access(request, operation))
        elif not self._options.allow_anonymous:
            reason = refusal(request, self._options.cors)
            if reason is not None:
                self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        if reason not in self._told and len(self._told) < 100:
            self._told.add(reason)
            _log.warning("requests to the HTTP API of task hub %r are refused: %s", self._hub.name, reason)
        raise HTTPException(
            403,
            f"this API has no authorizer, so it serves requests of its own machine only: {reason}. "
            "Give http_app an authorizer: authorize=bearer(...)",
        )

    def _query(self, request: Request, operation: Operation) -> dict[str, str]:
        """The query by names in lower case. Raises BadRequestError for one given twice, or one not known."""
        query: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name.lower() in query:
                raise BadRequestError(f"query parameter {name[:80]!r} is given more than once")
            query[name.lower()] = value
        if operation.strict:
            parameters = [one.name for one in (*operation.parameters, *COMMON) if one.place == "query"]
            credentials = {_CODE, getattr(self._options.authorize, "query", None) or _CODE}
            unknown = query.keys() - {name.lower() for name in (*parameters, *credentials)}
            if unknown:
                raise BadRequestError(
                    f"query parameter {min(unknown)[:80]!r} is not known here; there are: {', '.join(parameters)}"
                )
        return query


def _read(parameter: Parameter[Any], request: Request, query: dict[str, str]) -> Any:
    match parameter.place:
        case "path":
            return parameter.value(request.path_params[parameter.name])
        case "header":
            return parameter.value(request.headers.get(parameter.name))
        case _:
            return parameter.value(query.get(parameter.name.lower()))


def _access(request: Request, operation: Operation) -> Access:
    parts = request.path_params
    instance_id = parts.get("instanceId")
    if "entityKey" in parts:
        instance_id = f"@{parts['entityName'].lower()}@{parts['entityKey']}"
    return Access(request.method, request.scope["path"], operation.name, instance_id, request)
