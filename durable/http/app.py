"""The ASGI application: routes made from the table of operations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from durable.http.access import Authorizer
from durable.http.admission import Gate
from durable.http.calls import BASE_PATH, MAX_BODY, Call, Options
from durable.http.errors import error_response
from durable.http.instances import TOKEN_HEADER
from durable.http.links import origin_of
from durable.http.openapi import document
from durable.http.operations import OPERATIONS, Answer, Operation
from durable.http.responses import JsonResponse
from durable.registry import BUILT_IN

if TYPE_CHECKING:
    from durable.hub import TaskHub

_EVENTS = "{eventName}"


def create_app(
    hub: TaskHub,
    *,
    authorize: Authorizer | None = None,
    allow_anonymous: bool = False,
    base_path: str = BASE_PATH,
    max_body: int = MAX_BODY,
    cors: Sequence[str] = (),
    trust_forwarded: bool = False,
    retry_after: int | None = None,
) -> Starlette:
    """The HTTP API of ``hub``; see :meth:`TaskHub.http_app`."""
    options = Options(
        base_path=_checked_base(base_path),
        authorize=authorize,
        allow_anonymous=allow_anonymous,
        max_body=max_body,
        cors=(cors,) if isinstance(cors, str) else tuple(cors),
        trust_forwarded=trust_forwarded,
        retry_after=retry_after,
    )
    _check(options)
    gate = Gate(hub, options)
    operations = (*OPERATIONS, _document_operation())
    app = Starlette(
        routes=[route for operation in operations for route in _routes(operation, gate, options.base_path)],
        middleware=_middleware(options),
        exception_handlers={HTTPException: _refused},
        lifespan=_lifespan(hub),
    )
    app.router.redirect_slashes = False
    app.state.durable = options
    return app


def _checked_base(base_path: str) -> str:
    stripped = base_path.rstrip("/")
    if stripped and (not stripped.startswith("/") or "{" in stripped or "//" in stripped):
        raise ValueError(f"base_path {base_path!r} must be a path that starts with '/', without '{{' and '//'")
    return stripped


def _check(options: Options) -> None:
    if options.max_body < 1:
        raise ValueError(f"max_body must be a number of bytes above 0, not {options.max_body!r}")
    if options.retry_after is not None and options.retry_after < 1:
        raise ValueError(f"retry_after must be a whole number of seconds above 0, not {options.retry_after!r}")
    if options.authorize is not None and options.allow_anonymous:
        raise ValueError("give authorize or allow_anonymous, not both: with the second nobody would be asked")
    if "*" in options.cors and options.authorize is None and not options.allow_anonymous:
        raise ValueError("cors=['*'] would let every web page use an API without an authorizer; name the origins")


def _middleware(options: Options) -> list[Middleware]:
    if not options.cors:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(options.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", TOKEN_HEADER],
        )
    ]


def _lifespan(hub: TaskHub) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Connects the hub where the application is served by itself; one that is mounted leaves that to its host."""

    @asynccontextmanager
    async def connected(app: Starlette) -> AsyncIterator[None]:
        async with hub:
            yield

    return connected


def _routes(operation: Operation, gate: Gate, base_path: str) -> list[Route]:
    path = operation.path if operation.rooted else base_path + operation.path
    paths = [path.replace(_EVENTS, "{eventName:path}")]  # the name of an event may hold a slash
    if operation.name == "makePrimary":
        paths.append(f"{path}/")
    return [Route(one, _endpoint(operation, gate), methods=[operation.method]) for one in paths]


def _endpoint(operation: Operation, gate: Gate) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await operation.handler(await gate.admit(request, operation))
        except Exception as error:
            return error_response(error)

    return endpoint


async def _refused(request: Request, error: Exception) -> Response:
    return error_response(error)


def _document_operation() -> Operation:
    return Operation(
        "GET",
        "/openapi.json",
        "getDocument",
        _document,
        answers={200: Answer("This document.", {"type": "object"})},
        rooted=True,
    )


async def _document(call: Call) -> Response:
    """The OpenAPI document of this API."""
    hub, options = call.hub, call.options
    return JsonResponse(
        document(
            (*OPERATIONS, _document_operation()),
            base_path=options.base_path,
            server=origin_of(call.request, trust_forwarded=options.trust_forwarded),
            hub=hub.name,
            functions=[name for name in hub.orchestrators if not name.startswith(BUILT_IN)],
            authorize=options.authorize,
        )
    )
