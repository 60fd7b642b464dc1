"""The OpenAPI 3.1 document, made from the table of operations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from durable.http.access import Authorizer
from durable.http.admission import COMMON
from durable.http.operations import Answer, Operation
from durable.http.parameters import Parameter
from durable.http.schemas import SCHEMAS
from durable.http.starting import FUNCTION

VERSION = "1.0.0"

_ANY_OPERATION = (400, 404, 500, 503)
_MEANINGS = {
    400: "A parameter or the body breaks a rule; the message names it.",
    401: "No valid credentials.",
    403: "Not allowed.",
    404: "There is no such instance, entity or task hub.",
    409: "The instance stands as it must not for this.",
    410: "The instance has ended.",
    413: "The body is too large.",
    500: "The request failed.",
    503: "The store does not answer.",
}
_HEADERS: Mapping[str, Mapping[str, Any]] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the status is."},
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before looking."},
    "x-ms-continuation-token": {"schema": {"type": "string"}, "description": "There is more: send it to get that."},
}


def document(
    operations: Sequence[Operation],
    *,
    base_path: str,
    server: str,
    hub: str,
    functions: Sequence[str] = (),
    authorize: Authorizer | None = None,
) -> dict[str, Any]:
    """The document for an API at ``server``. ``functions`` are the orchestrators it can start, if known."""
    schemes: Mapping[str, Any] = getattr(authorize, "security_schemes", {})
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, hub, functions)
        if schemes and not operation.public:
            described["security"] = [{name: []} for name in schemes]
        path = operation.path if operation.rooted else base_path + operation.path
        paths.setdefault(path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Durable orchestrations: task hub {hub}", "version": VERSION},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "securitySchemes": dict(schemes)},
    }


def _operation(operation: Operation, hub: str, functions: Sequence[str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": inspect.cleandoc(operation.handler.__doc__ or operation.name).splitlines()[0],
        "responses": _responses(operation),
    }
    common = () if operation.public else COMMON
    parameters = [_parameter(one, hub, functions) for one in (*operation.parameters, *common)]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": {}}}
        if operation.body == "json or text":
            content["text/plain"] = {"schema": {"type": "string"}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _parameter(parameter: Parameter[Any], hub: str, functions: Sequence[str]) -> dict[str, Any]:
    schema = dict(parameter.schema)
    if parameter is FUNCTION and functions:
        schema = {"type": "string", "enum": sorted(functions)}
    elif parameter.name == "taskHub":
        schema["enum"] = [hub]
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.description,
        "schema": schema,
    }
    if schema.get("type") == "array":
        described |= {"style": "form", "explode": False}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    known = {status: _answer(answer) for status, answer in operation.answers.items()}
    if operation.public:
        return {str(status): one for status, one in {**known, 503: {"description": "Not ready."}}.items()}
    errors = {*_ANY_OPERATION, 401, 403, *operation.errors} - known.keys()
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    known |= {status: {"description": _MEANINGS[status], "content": content} for status in errors}
    return {str(status): known[status] for status in sorted(known)}


def _answer(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.meaning}
    if answer.schema is not None:
        described["content"] = {"application/json": {"schema": answer.schema}}
    if answer.headers:
        described["headers"] = {name: _HEADERS[name] for name in answer.headers}
    return described
