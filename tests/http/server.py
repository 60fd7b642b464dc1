"""A small HTTP/1.1 server on a loopback port, answering as a test says and keeping what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass
class Asked:
    """A request as it arrived; header names in lower case, ``path`` with its query."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Answer:
    """A response to send; ``headers`` may hold one name several times."""

    status: int = 200
    headers: Mapping[str, str] | list[tuple[str, str]] = field(default_factory=dict)
    body: bytes = b""


Handler = Callable[[Asked], Answer | Awaitable[Answer]]


class LoopbackServer:
    """Set ``routes[path]`` to an answer or to what makes one; read ``asked`` afterwards."""

    def __init__(self) -> None:
        self.routes: dict[str, Answer | Handler] = {}
        self.asked: list[Asked] = []
        self.url = ""
        self.connections = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LoopbackServer]:
        """Serve on a free port until the block ends."""
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while asked := await self._read(reader):
                self.asked.append(asked)
                await self._answer(asked, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up, as some tests make it do
        finally:
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Asked | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if end.partial:
                raise
            return None
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Asked(method, path, headers, body.decode())

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        route = self.routes.get(asked.path.partition("?")[0], Answer(404))
        answer = route if isinstance(route, Answer) else route(asked)
        if not isinstance(answer, Answer):
            answer = await answer
        pairs = answer.headers.items() if isinstance(answer.headers, Mapping) else answer.headers
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *(f"{n}: {v}" for n, v in pairs)]
        lines.append(f"content-length: {len(answer.body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
        await writer.drain()
