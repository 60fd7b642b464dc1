"""Who is let in: authorizers, and what an application without one does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.exceptions import HTTPException

from durable import TaskHub
from durable.http import Access, Authorizer, api_key, bearer, http_server
from durable.http.anonymous import is_loopback
from durable.http.calls import BASE_PATH
from tests.http_api.service import BASE, client_of, error_of, make_hub


@pytest.fixture
def hub_url() -> str:
    """The store does not matter here."""
    return f"memory://{uuid4().hex}"


async def test_bearer_tokens(hub: TaskHub) -> None:
    async with client_of(hub.http_app(authorize=bearer(["old", "new"]))) as client:
        for headers in ({}, {"authorization": "Bearer nw"}, {"authorization": "Basic new"}, {"authorization": "new"}):
            response = await client.get("/instances/x", headers=headers)
            assert error_of(response, 401)[0] == "Unauthorized"
            assert response.headers["www-authenticate"] == "Bearer"
        for token in ("old", "new"):
            response = await client.get("/instances/x", headers={"authorization": f"bearer {token}"})
            assert response.status_code == 404


async def test_keys_in_header_or_query(hub: TaskHub) -> None:
    async with client_of(hub.http_app(authorize=api_key("s 3"))) as client:
        assert (await client.get("/instances/x")).status_code == 401
        assert (await client.get("/instances/x?code=S%203")).status_code == 401
        assert (await client.get("/instances/x", headers={"x-functions-key": "s 3"})).status_code == 404
        response = await client.post("/orchestrators/hello/one?code=s%203")
        links = response.json()
        assert links["statusQueryGetUri"] == f"{BASE}/instances/one?code=s+3"
        assert links["terminatePostUri"] == f"{BASE}/instances/one/terminate?reason={{text}}&code=s+3"
        assert (await client.get(response.headers["location"])).status_code in (200, 202)
    async with client_of(hub.http_app(authorize=api_key("k", header="x-key", query=None))) as client:
        assert (await client.get("/instances/x?code=k")).status_code == 401
        assert (await client.get("/instances/x", headers={"X-Key": "k"})).status_code == 404


@pytest.mark.parametrize("secrets", ["", [], ["a", ""], " "])
def test_an_empty_secret_is_refused(secrets: Any) -> None:
    for make in (bearer, api_key):
        with pytest.raises(ValueError, match="empty one"):
            make(secrets)
    assert "hush" not in repr(bearer("hush")) + repr(api_key("hush"))


async def test_an_authorizer_sees_what_is_asked(hub: TaskHub) -> None:
    seen: list[tuple[str, str, str, str | None]] = []

    async def only_looking(access: Access) -> bool:
        seen.append((access.method, access.path, access.operation, access.instance_id))
        await asyncio.sleep(0)
        return access.method == "GET" and access.headers["x-user"] == "ann"

    async with client_of(hub.http_app(authorize=only_looking), headers={"X-User": "ann"}) as client:
        assert error_of(await client.post("/orchestrators/hello/a%20b"), 403)[0] == "Forbidden"
        assert (await client.get("/instances/none")).status_code == 404
        assert (await client.delete("/entities/Counter/K")).status_code == 403
        assert (await client.delete("/instances?createdTimeFrom=2020-01-01")).status_code == 403
    assert seen == [
        ("POST", f"{BASE_PATH}/orchestrators/hello/a b", "startOrchestrationWithId", "a b"),
        ("GET", f"{BASE_PATH}/instances/none", "getInstanceStatus", "none"),
        ("DELETE", f"{BASE_PATH}/entities/Counter/K", "deleteEntity", "@counter@K"),
        ("DELETE", f"{BASE_PATH}/instances", "purgeInstances", None),
    ]
    assert [one async for one in hub.query()] == []


async def test_only_true_is_a_yes(hub: TaskHub) -> None:
    def truthy(access: Access) -> Any:
        return "yes"

    async with client_of(hub.http_app(authorize=truthy)) as client:
        assert (await client.get("/instances/x")).status_code == 403


async def test_an_authorizer_may_answer_itself_or_break(hub: TaskHub, caplog: pytest.LogCaptureFixture) -> None:
    def teapot(access: Access) -> bool:
        raise HTTPException(418, "short and stout", headers={"x-handle": "here"})

    def broken(access: Access) -> bool:
        raise RuntimeError("the secret is 42")

    async with client_of(hub.http_app(authorize=teapot)) as client:
        response = await client.get("/instances/x")
        assert error_of(response, 418) == ("HTTPException", "short and stout")
        assert response.headers["x-handle"] == "here"
    async with client_of(hub.http_app(authorize=broken)) as client:
        kind, message = error_of(await client.get("/instances/x"), 500)
        assert (kind, "42" in message) == ("InternalError", False)
    assert "the secret is 42" in caplog.text


async def test_probes_ask_nobody_and_the_document_does(hub: TaskHub) -> None:
    async with client_of(hub.http_app(authorize=bearer("t")), "http://127.0.0.1") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 401
        document = (await client.get("/openapi.json", headers={"authorization": "Bearer t"})).json()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["paths"][f"{BASE_PATH}/instances"]["get"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


# --- without an authorizer


@pytest.mark.parametrize(
    ("host", "good"),
    [
        *(
            (host, True)
            for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1")
        ),
        *(
            (host, False)
            for host in ("0.0.0.0", "::", "10.0.0.1", "", "example.com", "localhost.evil.example", "127.1")
        ),
    ],
)
def test_what_is_this_machine(host: str, good: bool) -> None:
    assert is_loopback(host) is good


@pytest.mark.parametrize(
    ("base_url", "headers", "reason"),
    [
        ("http://10.0.0.7", {}, "10.0.0.7, which is no loopback address"),
        ("http://10.0.0.7", {"host": "localhost"}, "10.0.0.7, which is no loopback address"),
        ("http://testserver", {}, "testserver"),
        ("http://127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, "a proxy"),
        ("http://127.0.0.1", {"forwarded": "for=127.0.0.1"}, "a proxy"),
        ("http://127.0.0.1", {"host": "rebound.example"}, "'rebound.example'"),
        ("http://127.0.0.1", {"host": "localhost:1@rebound.example"}, "no loopback name"),
        ("http://127.0.0.1", {"origin": "https://evil.example"}, "a web page of another origin"),
        ("http://127.0.0.1", {"origin": "null"}, "a web page of another origin"),
        ("http://127.0.0.1:8000", {"origin": "http://127.0.0.1:9000"}, "a web page of another origin"),
    ],
)
async def test_without_an_authorizer_others_are_refused(
    hub: TaskHub, caplog: pytest.LogCaptureFixture, base_url: str, headers: dict[str, str], reason: str
) -> None:
    with caplog.at_level(logging.WARNING, "durable.http"):
        async with client_of(hub.http_app(), base_url, headers=headers) as client:
            for _ in range(3):
                kind, message = error_of(await client.post(f"{BASE_PATH}/orchestrators/hello"), 403)
                assert (kind, reason in message, "authorize=" in message) == ("Forbidden", True, True)
    assert [reason in record.getMessage() for record in caplog.records] == [True]  # said once
    async with client_of(hub.http_app(allow_anonymous=True), base_url, headers=headers) as client:
        assert (await client.get(f"{BASE_PATH}/instances/x")).status_code == 404


@pytest.mark.parametrize("server", [None, ("/run/app.sock", None)])
async def test_a_unix_socket_is_no_loopback_address(hub: TaskHub, server: Any) -> None:
    app = hub.http_app()

    async def by_socket(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "server": server}, receive, send)

    async with client_of(by_socket) as client:
        error_of(await client.get("/instances/x"), 403)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "https://board.example"])
async def test_pages_of_the_same_or_a_named_origin_are_served(hub: TaskHub, origin: str) -> None:
    app = hub.http_app(cors=["https://board.example"])
    async with client_of(app, f"http://127.0.0.1:8000{BASE_PATH}", headers={"origin": origin}) as client:
        response = await client.get("/instances/x")
        assert response.status_code == 404
        assert response.headers.get("access-control-allow-origin") == (origin if "board" in origin else None)


async def test_cors_is_off_unless_told(hub: TaskHub) -> None:
    ask = {"origin": "https://board.example", "access-control-request-method": "POST"}
    async with client_of(hub.http_app()) as client:
        response = await client.options("/orchestrators/hello", headers=ask)
        assert response.status_code == 404
        assert [name for name in response.headers if name.startswith("access-control")] == []
    async with client_of(hub.http_app(cors="https://board.example", authorize=bearer("t"))) as client:
        response = await client.options("/orchestrators/hello", headers=ask)
        assert response.headers["access-control-allow-origin"] == "https://board.example"
        refused = await client.options("/orchestrators/hello", headers={**ask, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"cors": ["*"]}, "every web page"),
        ({"authorize": bearer("t"), "allow_anonymous": True}, "not both"),
        ({"max_body": 0}, "max_body"),
        ({"retry_after": 0}, "retry_after"),
        ({"base_path": "api"}, "base_path"),
        ({"base_path": "/{id}"}, "base_path"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part.replace("*", ".")):
        make_hub("memory://x").http_app(**options)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
async def test_serving_others_needs_an_authorizer(host: str) -> None:
    with pytest.raises(ValueError, match="there is no authorizer"):
        async with http_server(make_hub(f"memory://{uuid4().hex}"), host):
            raise AssertionError("it serves")


async def open_servers(authorize: Authorizer) -> AsyncIterator[str]:
    async with http_server(make_hub(f"memory://{uuid4().hex}"), "0.0.0.0", authorize=authorize) as url:
        yield url


async def test_serving_others_with_an_authorizer() -> None:
    async for url in open_servers(bearer("t")):
        port = httpx.URL(url).port
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}{BASE_PATH}", trust_env=False) as client:
            assert (await client.get("/instances/x")).status_code == 401
            response = await client.get("/instances/x", headers={"authorization": "Bearer t"})
            assert response.status_code == 404
