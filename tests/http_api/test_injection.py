"""Hostile values in every parameter, on MongoDB: they are text or they are refused; none becomes an operator."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from durable import TaskHub
from durable.http.instances import TOKEN_HEADER
from durable.http.operations import OPERATIONS, Operation
from tests.e2e.waiting import until
from tests.http_api.service import MANAGEMENT, client_of, make_hub

pytestmark = pytest.mark.mongodb

HOSTILE = [
    '{"$gt": ""}',
    '{"$ne": null}',
    '{"$where": "sleep(5000) || true"}',
    "$where",
    '{"$regex": "^(a+)+$"}',
    "(a+)+$" + "a" * 100,
    ".*",
    "'; return true; var x='",
    "1; DROP TABLE instances; --",
    "' OR '1'='1",
    "\x00",
    "victim\x00",
    "__proto__",
    "../../victim",
    "%2e%2e",
    "ａ" * 50,
    "\U0010ffff",
]

QUERIES = ["taskHub[$ne]=x", "top[$gt]=0", "runtimeStatus[$in][]=Running", "instanceIdPrefix[$regex]=.*"]
"""Operators as some frameworks read them out of names; here they are names that are not known."""


@pytest.fixture
def hub_url(mongodb_database_url: str) -> str:
    """A MongoDB hub."""
    return mongodb_database_url


@pytest.fixture
async def victim(hub: TaskHub, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client, with an instance and an entity that must be as they were afterwards."""
    await client.post("/orchestrators/approval/victim", json={"secret": 1})
    await client.post("/entities/counter/victim?op=add", json=1)
    await until(lambda: hub.query(), lambda found: len(found) == 1)
    await until(lambda: hub.query_entities("counter"), lambda found: len(found) == 1)
    status = await hub.get("victim").status()
    history = await hub.get("victim").history()
    yield client
    assert await hub.get("victim").status() == status
    assert await hub.get("victim").history() == history
    states = [one.state.value async for one in hub.query_entities("counter") if one.entity_id.key == "victim"]
    assert states == [1]


TRIED = [operation for operation in OPERATIONS if operation.name not in MANAGEMENT and operation.parameters]


def requests(operation: Operation, value: str) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Path, query and headers of one request for each parameter, in which that parameter is ``value``."""
    harmless = {
        "functionName": "hello",
        "instanceId": "nobody",
        "eventName": "x",
        "entityName": "counter",
        "entityKey": "no",
    }
    required = {
        one.name: "2020-01-01" if one.name.startswith("created") else "add"
        for one in operation.parameters
        if one.required and one.place == "query"
    }
    made = []
    for tried in operation.parameters:
        path, query, headers = operation.path, dict(required), {}
        for one in operation.parameters:
            if one.place == "path":
                filling = value if one is tried else harmless[one.name]
                path = path.replace(f"{{{one.name}}}", quote(filling, safe=""))
        if tried.place == "query":
            query[tried.name] = value
        elif tried.place == "header":
            headers[tried.name] = base64.urlsafe_b64encode(value.encode()).decode()
        made.append((path, query, headers))
    return made


@pytest.mark.parametrize("operation", TRIED, ids=lambda operation: operation.name)
async def test_no_parameter_is_an_operator(victim: httpx.AsyncClient, operation: Operation) -> None:
    for value in HOSTILE:
        for path, query, headers in requests(operation, value):
            body: dict[str, Any] = (
                {} if operation.method == "GET" else {"headers": {"content-type": "application/json"}}
            )
            body["headers"] = {**body.get("headers", {}), **headers}
            response = await victim.request(operation.method, path, params=query, **body)
            assert response.status_code < 500, (path, query, response.text)
            if operation.method == "GET":
                assert "secret" not in response.text, (path, query)
                assert "victim" not in response.text or "error" in response.json(), (path, query)


@pytest.mark.parametrize("value", HOSTILE)
async def test_bodies_are_values(victim: httpx.AsyncClient, hub: TaskHub, value: str) -> None:
    for body in (value, {"$gt": value}, [{"$where": value}], {value: {"$ne": None}}):
        response = await victim.post("/orchestrators/echo?timeout=30", json=body)
        assert (response.status_code, response.json()) == (200, body)
    response = await victim.post("/instances/nobody/raiseEvent/x", json={"$set": {"status": "Completed"}})
    assert response.status_code == 404
    refused = await victim.post("/entities/counter/other?op=add", json={"$inc": {"value": 100}})
    assert refused.status_code == 400


@pytest.mark.parametrize("query", QUERIES)
async def test_names_are_no_operators_either(victim: httpx.AsyncClient, query: str) -> None:
    for path in ("/entities", "/instances"):
        response = await victim.get(f"{path}?{query}")
        assert (response.status_code, "is not known here" in response.text) == (400, True)


@pytest.mark.parametrize(
    "position", [{"$gt": ""}, [{"$gt": 0}, {"$gt": ""}], ["x", "y"], [1], None, "x", [1e400, ""], [1e300, ""]]
)
async def test_a_continuation_is_a_position_or_nothing(victim: httpx.AsyncClient, position: Any) -> None:
    inner = base64.urlsafe_b64encode(json.dumps(position).encode())
    for token in (inner, base64.urlsafe_b64encode(inner)):
        response = await victim.get("/entities", headers={TOKEN_HEADER: token.decode()})
        assert response.status_code == 400, response.text


async def test_another_hub_on_the_same_store_is_out_of_reach(victim: httpx.AsyncClient, hub_url: str) -> None:
    other = make_hub(hub_url, name="other")
    async with other, client_of(other.http_app()) as client:
        for path in ("/instances/victim", "/instances/victim/history", "/entities/counter/victim"):
            assert (await client.get(path)).status_code == 404
            assert (await client.get(f"{path}?taskHub=default")).status_code == 404
        assert (await client.get("/entities")).json() == []
        assert (await client.post("/instances/victim/terminate")).status_code == 404
