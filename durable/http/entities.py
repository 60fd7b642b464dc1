"""Entities: their states, signals to them, and lists of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.responses import Response

from durable.backend import InstanceRecord, Query
from durable.clock import from_datetime, to_datetime
from durable.core.ids import EntityId, check_entity_name
from durable.entities import DELETE
from durable.http import parameters as par
from durable.http.bodies import media_type, parse_json, read_body
from durable.http.calls import Call
from durable.http.errors import BadRequestError, answer
from durable.http.instances import CONTINUATION, TOKEN_HEADER, TOP, encode_token
from durable.http.responses import JsonResponse, json_text
from durable.offload import restore_record
from durable.payloads import decode, encode
from durable.status_fields import to_the_second

_PATTERN = r"^[^@/\\#?\u0000-\u001f\u007f-\u009f]+$"
NAME = par.in_path(
    "entityName", check_entity_name, {"minLength": 1, "maxLength": 100, "pattern": _PATTERN}, "Its name."
)
KEY = par.in_path(
    "entityKey", str, {"minLength": 1, "maxLength": 254, "pattern": _PATTERN.replace("@", "")}, "Its key."
)
OPERATION = par.text("op", "The operation's name.", 256, required=True)
FETCH_STATE = par.flag("fetchState", "Whether the rows have the states.")
USED_FROM = par.moment("lastOperationTimeFrom", "Only entities that did something at this time or later.")
USED_TO = par.moment("lastOperationTimeTo", "Only entities that did nothing after this time.")


async def get_state(call: Call) -> Response:
    """The committed state of an entity."""
    found = await call.hub.read_entity(_entity(call))
    if found is None:
        return answer(404, "EntityNotFound", "there is no such entity, or it has no state")
    return json_text(encode(found.state, "the state"))


async def signal(call: Call) -> Response:
    """Have an entity do an operation; its argument is the body, JSON or text."""
    body = await read_body(call.request, call.options.max_body)
    await _signal(call, str(call[OPERATION]), _argument(call, body))
    return Response(status_code=202)


async def delete(call: Call) -> Response:
    """Have an entity forget its state."""
    await _signal(call, DELETE, [])
    return Response(status_code=202)


async def _signal(call: Call, operation: str, arguments: list[Any]) -> None:
    if call.hub.entities or call.hub.has_orchestrators:  # else this process is a client that knows no definitions
        call.hub.find_entity(call[NAME])
    try:
        await call.hub.signal_entity(_entity(call), operation, *arguments)
    except TypeError as error:  # the arguments are too many, or too few
        raise BadRequestError(str(error)) from error


def _argument(call: Call, body: bytes) -> list[Any]:
    if not body:
        return []
    if media_type(call.request) in ("application/json", ""):
        return [parse_json(body)]
    try:
        return [body.decode()]
    except UnicodeDecodeError as error:
        raise BadRequestError(f"the body is neither JSON nor UTF-8 text: {error}") from error


def _entity(call: Call) -> EntityId:
    try:
        return EntityId(call[NAME], call[KEY])
    except ValueError as error:
        raise BadRequestError(f"path parameter 'entityKey': {error}") from error


# --- lists -----------------------------------------------------------------------------------


async def list_all(call: Call) -> Response:
    """The entities that have a state, newest first, a page at a time; a page may have fewer than ``top``."""
    return await _list(call, None)


async def list_of_name(call: Call) -> Response:
    """The entities of one name that have a state."""
    return await _list(call, f"@{call[NAME]}@")


async def _list(call: Call, prefix: str | None) -> Response:
    call.hub._connected()
    backend = call.hub._backend  # the hub's own lists of entities have no pages to go on from
    assert backend is not None
    query = Query(id_prefix=prefix, entities=True, page_size=call[TOP], continuation=call[CONTINUATION])
    try:
        page = await backend.query(query)
    except (ValueError, OverflowError) as error:  # the token is of no page of this store
        raise BadRequestError(f"header {TOKEN_HEADER!r}: it is not one that a page gave") from error
    rows = []
    for listed in page.records:
        if _used_between(listed.updated_at, call[USED_FROM], call[USED_TO]):
            record = await restore_record(backend, listed)
            if record.output is not None:
                rows.append(_row(record, record.output if call[FETCH_STATE] else None))
    headers = {} if page.continuation is None else {TOKEN_HEADER: encode_token(page.continuation)}
    return JsonResponse(rows, headers=headers)


def _used_between(at: int, earliest: datetime | None, latest: datetime | None) -> bool:
    return (earliest is None or at >= from_datetime(earliest)) and (latest is None or at <= from_datetime(latest))


def _row(record: InstanceRecord, state: str | None) -> dict[str, Any]:
    entity = EntityId.parse(record.instance_id)
    row: dict[str, Any] = {
        "entityId": {"name": entity.name, "key": entity.key},
        "lastOperationTime": to_the_second(to_datetime(record.updated_at)),
    }
    if state is not None:
        row["state"] = decode(state)
    return row
