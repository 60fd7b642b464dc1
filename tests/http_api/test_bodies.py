"""How much a request may send, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from durable.http import http_server
from durable.http.calls import BASE_PATH
from tests.http_api.service import error_of, make_hub

LIMIT = 1000


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """A server whose bodies have at most ``LIMIT`` bytes."""
    hub = make_hub(f"memory://{uuid4().hex}")
    async with hub.worker(), http_server(hub, max_body=LIMIT) as url:
        yield url


@pytest.fixture
async def client(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that server."""
    async with httpx.AsyncClient(base_url=origin + BASE_PATH, timeout=30, trust_env=False) as client:
        yield client


PATHS = ["/orchestrators/echo", "/instances/x/raiseEvent/y", "/entities/counter/a?op=add"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_above_the_limit_is_refused(client: httpx.AsyncClient, path: str) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post(path, content=b'"' + b"x" * LIMIT, headers=headers)
    assert error_of(response, 413)[0] == "BodyTooLarge"


async def test_a_body_at_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    text = "x" * (LIMIT - 2)
    assert (await client.post("/orchestrators/echo?timeout=30", json=text)).json() == text


async def test_a_body_is_counted_while_it_comes(client: httpx.AsyncClient, origin: str) -> None:
    """A body without a length and without an end is refused as soon as the limit is passed."""
    url = httpx.URL(origin)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {BASE_PATH}/orchestrators/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"1\r\n[\r\n")
    try:
        async with asyncio.timeout(30):
            for _ in range(LIMIT // 100 + 1):
                writer.write(b"64\r\n" + b" " * 100 + b"\r\n")
                await writer.drain()
            status = await reader.readline()
            assert b" 413 " in status
            body = (await reader.read()).rpartition(b"\r\n\r\n")[
                2
            ]  # the connection is closed: there may be more to come
            assert json.loads(body)["error"]["type"] == "BodyTooLarge"
    finally:
        writer.close()
    assert (await client.get("/instances/x")).status_code == 404  # and the server goes on


async def test_who_hangs_up_halfway_starts_nothing(client: httpx.AsyncClient, origin: str) -> None:
    url = httpx.URL(origin)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {BASE_PATH}/orchestrators/echo/half HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"a": 1}')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await client.post("/orchestrators/echo/whole?timeout=30", json=1)).json() == 1
    assert (await client.get("/instances/half")).status_code == 404
