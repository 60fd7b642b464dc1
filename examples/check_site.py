"""Durable HTTP: check a site with ``ctx.call_http``, which waits out an answer of 202 by durable timers.

python examples/check_site.py    needs httpx: pip install "durable-orchestrations[http]"

What survives a crash: every response that came is in history and is not asked for again. While the site is busy (202
with a Location and Retry-After) nothing is held open; a worker that takes over polls when the time has come.
A request that was under way when the process died is sent again.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from durable import ActivityFailedError, OrchestrationContext, RetryPolicy, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///check_site.db"))

TWICE = RetryPolicy(max_attempts=2, first_interval=timedelta(seconds=0.2))
"""For requests that get no response at all. A response of any status is a result."""


@dataclass
class SiteReport:
    up: bool
    says: str


@hub.orchestrator
async def check_site(ctx: OrchestrationContext, url: str) -> SiteReport:
    try:
        response = await ctx.call_http("GET", url, timeout=5, retry=TWICE)
    except ActivityFailedError:
        return SiteReport(False, "no answer")
    return SiteReport(response.ok, f"{response.status_code} {response.content}")


# --- the site: busy at first ------------------------------------------------------------

BUSY = "202 Accepted\r\nLocation: /health/1\r\nRetry-After: 1"
RESPONSES = {"/health": [BUSY], "/health/1": [BUSY, "200 OK"]}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request with the next response of its path."""
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
    head = RESPONSES[path].pop(0)
    body = "all is well" if head.startswith("200") else ""
    print(f"  GET {path}: {head.splitlines()[0]}", flush=True)
    writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    await writer.drain()
    writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def main() -> bool:
    async with hub.worker():
        async with site() as url:
            print("The site is up:")
            up = await (await hub.start(check_site, f"{url}/health")).result(timeout=30)
            print(f"  {up}")
        print("The site is down:")
        down = await (await hub.start(check_site, f"{url}/health")).result(timeout=30)
        print(f"  {down}")
    return up == SiteReport(True, "200 all is well") and down == SiteReport(False, "no answer")


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
