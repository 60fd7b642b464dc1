"""Serving the API by itself, beside a worker or alone, on uvicorn.

Rule of this file: an address that others can reach needs an authorizer; that is checked before anything is bound.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from durable.http.access import Authorizer
from durable.http.anonymous import is_loopback
from durable.http.app import create_app

if TYPE_CHECKING:
    from durable.hub import TaskHub

DRAIN = 10
"""Seconds that requests under way have to end when the server stops."""


@asynccontextmanager
async def http_server(
    hub: TaskHub,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    authorize: Authorizer | None = None,
    allow_anonymous: bool = False,
    **options: Any,
) -> AsyncIterator[str]:
    """Connect the hub and serve its API until the block ends; gives its origin, ``http://host:port``.

    ``port`` 0 takes a free one. ``options`` are those of :meth:`TaskHub.http_app`. Signals are left to the program.

    Raises:
        ValueError: ``host`` is not a loopback address, and there is neither an authorizer nor ``allow_anonymous``.
        OSError: the address cannot be bound.
        ModuleNotFoundError: uvicorn is not installed.
    """
    if authorize is None and not allow_anonymous and not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached from other machines, and there is no authorizer: whoever reaches it could "
            "start, read and purge instances. Give authorize=bearer(...), or serve on 127.0.0.1"
        )
    app = create_app(hub, authorize=authorize, allow_anonymous=allow_anonymous, **options)
    async with hub:
        with _bound(host, port) as listener:
            address = listener.getsockname()
            async with _running(app, listener):
                yield f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"


@contextmanager
def _bound(host: str, port: int) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        yield listener


@asynccontextmanager
async def _running(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    started = asyncio.Event()
    server = _server(app, started)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]), name="durable-http")
    waiting = asyncio.get_running_loop().create_task(started.wait(), name="durable-http-started")
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            raise RuntimeError("the HTTP server ended before it began to serve")
        yield
    finally:
        waiting.cancel()
        server.should_exit = True
        await task


def _server(app: Starlette, started: asyncio.Event) -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"serving the HTTP API needs the package {missing.name!r}; install it with: "
            "pip install 'durable-orchestrations[http]'",
            name=missing.name,
        ) from missing

    class Embedded(uvicorn.Server):
        """A server that leaves signals to the program, and says when it serves."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            started.set()

    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whom to trust is the application's to say
        timeout_graceful_shutdown=DRAIN,
    )
    return Embedded(config)
