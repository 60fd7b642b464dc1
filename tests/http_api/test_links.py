"""Links lead back to where the request came to, and nothing else that a request says changes that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.routing import Mount

from durable import TaskHub
from durable.http import (
    create_check_status_response,
    create_http_management_payload,
    wait_for_completion_or_create_check_status_response,
)
from durable.http.calls import BASE_PATH
from tests.http_api.service import client_of, error_of, hello, make_hub, patient

HOSTILE = {"x-forwarded-proto": "https", "x-forwarded-host": "shop.example", "x-forwarded-prefix": "/eu/"}


@pytest.fixture
def hub_url() -> str:
    """The store does not matter here."""
    return f"memory://{uuid4().hex}"


async def status_link(app: Any, url: str, headers: dict[str, str] | None = None, root_path: str = "") -> str:
    """The link to the status that a start at ``url`` gives."""
    async with client_of(app, url, root_path) as client:
        response = await client.post("/orchestrators/hello/one%20%C3%A4", headers=headers)
        assert response.status_code == 202, response.text
        link: str = response.json()["statusQueryGetUri"]
        assert link == response.headers["location"]
        return link


@pytest.mark.parametrize("origin", ["http://api.example", "https://api.example:8443", "http://[::1]:8000"])
async def test_links_have_the_origin_of_the_request(hub: TaskHub, origin: str) -> None:
    link = await status_link(hub.http_app(allow_anonymous=True), origin + BASE_PATH)
    assert link == f"{origin}{BASE_PATH}/instances/one%20%C3%A4"


async def test_what_a_proxy_says_counts_only_where_it_is_trusted(hub: TaskHub) -> None:
    url = "http://10.0.0.1:8000" + BASE_PATH
    link = await status_link(hub.http_app(allow_anonymous=True), url, HOSTILE)
    assert link == f"{url}/instances/one%20%C3%A4"


async def test_links_follow_a_trusted_proxy(hub: TaskHub) -> None:
    app = hub.http_app(allow_anonymous=True, trust_forwarded=True)
    link = await status_link(app, "http://10.0.0.1" + BASE_PATH, HOSTILE)
    assert link == f"https://shop.example/eu{BASE_PATH}/instances/one%20%C3%A4"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-proto": "javascript", "x-forwarded-host": "a b"},
        {"x-forwarded-host": "evil.example/path?"},
        {"x-forwarded-host": "user@evil.example"},
        {"host": "evil.example/x@y"},
    ],
)
async def test_nonsense_does_not_get_into_links(hub: TaskHub, headers: dict[str, str]) -> None:
    app = hub.http_app(allow_anonymous=True, trust_forwarded=True)
    link = await status_link(app, "http://10.0.0.1:81" + BASE_PATH, headers)
    assert link == f"http://10.0.0.1:81{BASE_PATH}/instances/one%20%C3%A4"


async def test_links_know_where_the_application_is_mounted(hub: TaskHub) -> None:
    api = hub.http_app(allow_anonymous=True, base_path="/v1/", retry_after=2)
    app = FastAPI()
    app.mount("/dürable", api)
    link = await status_link(app, "http://api.example/shop/d%C3%BCrable/v1", root_path="/shop")
    assert link == "http://api.example/shop/d%C3%BCrable/v1/instances/one%20%C3%A4"
    async with client_of(app, "http://api.example", "/shop") as client:
        response = await client.get(link)
        assert response.status_code in (200, 202)
        document = (await client.get("/shop/d%C3%BCrable/openapi.json")).json()
    assert document["servers"] == [{"url": "http://api.example/shop/d%C3%BCrable"}]
    assert "/v1/instances" in document["paths"]


async def test_retry_after_is_what_was_chosen(hub: TaskHub) -> None:
    async with client_of(hub.http_app(retry_after=2)) as client:
        started = await client.post("/orchestrators/patient/one")
        looked = await client.get("/instances/one")
    assert [response.headers["retry-after"] for response in (started, looked)] == ["2", "2"]


# --- in endpoints of users


@asynccontextmanager
async def shop(hub: TaskHub, *mounts: tuple[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with endpoints of its own beside the hub's API."""
    app = FastAPI()

    @app.post("/orders/{number}")
    async def order(request: Request, number: str) -> Response:
        handle = await hub.start(patient, instance_id=number)
        return create_check_status_response(request, handle.instance_id)

    @app.get("/orders/{number}/links")
    async def links(request: Request, number: str) -> dict[str, str]:
        return create_http_management_payload(request, number, base_url=request.query_params.get("base"))

    @app.get("/greeting")
    async def greeting(request: Request, seconds: float) -> Response:
        handle = await hub.start(hello if seconds else patient)
        return await wait_for_completion_or_create_check_status_response(
            hub, request, handle.instance_id, timeout=seconds or 0.01
        )

    for path, api in mounts:
        app.mount(path, api)
    async with client_of(app, "http://shop.example") as client:
        yield client


async def test_an_endpoint_of_a_user_answers_with_links(hub: TaskHub) -> None:
    async with shop(hub, ("/durable", hub.http_app(allow_anonymous=True))) as client:
        response = await client.post("/orders/7", headers=HOSTILE)
        assert response.status_code == 202
        assert response.json()["sendEventPostUri"] == (
            f"http://shop.example/durable{BASE_PATH}/instances/7/raiseEvent/{{eventName}}"
        )
        assert response.headers["retry-after"] == "10"
        assert (await client.get(response.headers["location"])).status_code == 202
        assert (await client.post(f"{response.headers['location']}/terminate")).status_code == 202
        payload = (await client.get("/orders/7/links")).json()
        assert payload == response.json()


async def test_an_endpoint_of_a_user_may_wait(hub: TaskHub) -> None:
    async with shop(hub, ("/durable", hub.http_app(allow_anonymous=True))) as client:
        response = await client.get("/greeting?seconds=30")
        assert (response.status_code, response.json()) == (200, "Hello world!")
        response = await client.get("/greeting?seconds=0")
        assert (response.status_code, "statusQueryGetUri" in response.json()) == (202, True)


async def test_an_api_deeper_down_is_found(hub: TaskHub) -> None:
    api = Starlette(routes=[Mount("/deep", hub.http_app(allow_anonymous=True))])
    async with shop(hub, ("/api", api)) as client:
        link = (await client.get("/orders/7/links")).json()["statusQueryGetUri"]
    assert link == f"http://shop.example/api/deep{BASE_PATH}/instances/7"


async def test_which_api_must_be_clear(hub: TaskHub) -> None:
    api = hub.http_app(allow_anonymous=True)
    for mounts in ([], [("/a", api), ("/b", api)]):
        async with shop(hub, *mounts) as client:
            with pytest.raises(ValueError, match=f"has {len(mounts)} HTTP APIs"):
                await client.get("/orders/7/links")
            payload = (await client.get("/orders/7/links?base=https://api.example/x/")).json()
            assert payload["statusQueryGetUri"] == "https://api.example/x/instances/7"


# --- as an application of its own


async def test_served_by_itself_it_connects_the_hub() -> None:
    hub = make_hub(f"memory://{uuid4().hex}")
    app = hub.http_app()
    async with client_of(app) as client:
        error_of(await client.get("/instances/x"), 500)
        async with app.router.lifespan_context(app):
            assert (await client.post("/orchestrators/hello/one")).status_code == 202
        error_of(await client.get("/instances/one"), 500)
