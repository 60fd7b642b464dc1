"""Entities over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from durable import EntityId, TaskHub
from durable.http.instances import TOKEN_HEADER
from tests.e2e.waiting import until
from tests.http_api.service import error_of


async def state_of(hub: TaskHub, key: str, value: int | None) -> None:
    """Return when the counter has this value; None: no state."""

    async def look() -> Any:
        found = await hub.read_entity(EntityId("counter", key))
        return None if found is None else found.state.value

    await until(look, lambda seen: seen == value)


async def test_signals_states_and_deletion(client: httpx.AsyncClient, hub: TaskHub) -> None:
    path = "/entities/Counter/a%20b"
    assert (await client.get(path)).status_code == 404
    for content in (b"5", b""):
        response = await client.post(f"{path}?op=add", content=content)
        assert (response.status_code, response.content) == (202, b"")
    await state_of(hub, "a b", 6)
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, {"value": 6})
    assert response.headers["content-type"] == "application/json"
    assert (await client.delete(path)).status_code == 202
    await state_of(hub, "a b", None)
    assert error_of(await client.get(path), 404)[0] == "EntityNotFound"


async def test_an_argument_may_be_text(client: httpx.AsyncClient, hub: TaskHub) -> None:
    text = {"content-type": "text/plain; charset=utf-8"}
    response = await client.post("/entities/counter/$?op=note", content='"äöü"'.encode(), headers=text)
    assert response.status_code == 202
    await state_of(hub, "$", 5)  # the quotes count: it is not JSON
    error_of(await client.post("/entities/counter/$?op=note", content=b"\xff", headers=text), 400)


@pytest.mark.parametrize(
    ("path", "content", "part"),
    [
        ("/entities/counter/a", b"1", "'op' is required"),
        ("/entities/counter/a?op=", b"1", "'op'"),
        ("/entities/nobody/a?op=add", b"1", "registered: counter"),
        ("/entities/counter/a?op=fly", b"1", "no operation 'fly'"),
        ("/entities/counter/a?op=add", b"{", "the body is not JSON"),
        ("/entities/counter/a?op=add", b'"x"', "argument amount"),
        ("/entities/counter/a?op=note", b"", "text"),
        ("/entities/counter/a%23?op=add", b"1", "'entityKey'"),
        ("/entities/a@b/a?op=add", b"1", "'entityName'"),
    ],
)
async def test_a_signal_that_breaks_a_rule_is_refused(
    client: httpx.AsyncClient, path: str, content: bytes, part: str
) -> None:
    assert part in error_of(await client.post(path, content=content), 400)[1]


async def test_lists_come_in_pages(client: httpx.AsyncClient, hub: TaskHub) -> None:
    for key in range(7):
        await client.post(f"/entities/counter/{key}?op=add", json=key)
    for key in range(7):
        await state_of(hub, str(key), key)
    await until(lambda: hub.query_entities("counter"), lambda seen: len(seen) == 7)  # a list may lag behind a state
    pages, token = [], ""
    while True:
        headers = {TOKEN_HEADER: token} if token else {}
        response = await client.get("/entities/Counter?top=3&fetchState=true", headers=headers)
        pages.append([(row["entityId"]["key"], row["state"]["value"]) for row in response.json()])
        if TOKEN_HEADER not in response.headers:
            break
        token = response.headers[TOKEN_HEADER]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [row for page in pages for row in page] == [(str(key), key) for key in reversed(range(7))]
    (row, *_) = (await client.get("/entities")).json()
    assert row.keys() == {"entityId", "lastOperationTime"}
    assert (await client.get("/entities/other")).json() == []
    assert (await client.get("/entities?lastOperationTimeTo=2020-01-01T00:00:00Z")).json() == []
    assert len((await client.get("/entities?lastOperationTimeFrom=2020-01-01")).json()) == 7


@pytest.mark.parametrize(
    ("query", "token"),
    [
        ("top=1.5", ""),
        ("top=1001", ""),
        ("lastOperationTimeTo=never", ""),
        ("fetchstat=true", ""),
        ("", "x"),
        ("", "e30="),
    ],
)
async def test_a_list_that_breaks_a_rule_is_refused(client: httpx.AsyncClient, query: str, token: str) -> None:
    error_of(await client.get(f"/entities?{query}", headers={TOKEN_HEADER: token} if token else {}), 400)
