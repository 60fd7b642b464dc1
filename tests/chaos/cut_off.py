"""A TCP connection to a server that can be cut and restored, as a network does it: silently, or with a reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Line:
    """Forwards to a server, unless it is cut: then nothing passes, and nobody is told."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """From now on nothing passes."""
        self._open.clear()

    def resume(self) -> None:
        """Let pass what was held back by a cut, and what comes: it was a long delay."""
        self._open.set()

    def break_connections(self) -> int:
        """Reset all connections that there are; how many these were. New ones are taken."""
        broken = len(self._writers) // 2
        for writer in self._writers:
            writer.transport.abort()
        return broken

    def restore(self) -> int:
        """Let new connections pass; the old ones, of which the number is returned, break, as after a long silence."""
        broken = self.break_connections()
        self.resume()
        return broken

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        with suppress(OSError):
            there, back = await asyncio.open_connection(*self._target)
            self._writers |= {writer, back}
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back))
                    group.create_task(self._pump(there, writer))
            except* OSError:
                pass
            finally:
                for each in (writer, back):
                    self._writers.discard(each)
                    each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._open.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # one side is gone: so is the other


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to the server of ``url``, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    line = Line(parts.hostname, parts.port)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(line.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        # Straight through: else the driver would look up where the server really is.
        yield line, parts._replace(netloc=f"127.0.0.1:{port}", query="directConnection=true").geturl()
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
