"""The OpenAPI document: it is valid, complete, and the API does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import TaskHub
from durable.http.app import create_app
from durable.http.calls import BASE_PATH
from durable.http.operations import OPERATIONS
from tests.http_api.fuzzing import api_schema, bounded, checks, server, use_known
from tests.http_api.service import MANAGEMENT, client_of

schema = api_schema(operation.name for operation in OPERATIONS if operation.name not in MANAGEMENT)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server to try the document on."""
    directory: Path = tmp_path_factory.mktemp("store")
    with server(f"sqlite:///{directory / 'hub.db'}") as origin:
        yield origin


_numbers = count()


@schema.parametrize()
@bounded
def test_the_api_conforms(case: Any, origin: str) -> None:
    use_known(case, next(_numbers))
    case.call_and_validate(base_url=origin, checks=checks(), timeout=30)


async def test_the_document_names_every_route(client: httpx.AsyncClient, hub: TaskHub) -> None:
    document = (await client.get("http://127.0.0.1:8123/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    app = create_app(hub)
    served = {
        (path.replace(":path}", "}"), method)
        for route in app.routes
        for path, method in [(getattr(route, "path", ""), next(iter(getattr(route, "methods", set()) - {"HEAD"})))]
        if not path.endswith("/")
    }
    assert described == served
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    start = document["paths"][f"{BASE_PATH}/orchestrators/{{functionName}}"]["post"]
    function = next(one for one in start["parameters"] if one["name"] == "functionName")
    assert function["schema"]["enum"] == ["add", "approval", "echo", "fail", "hello", "patient", "rounds"]


async def test_a_client_without_definitions_has_no_list_of_functions() -> None:
    hub = TaskHub("memory://empty")
    async with client_of(hub.http_app(), "http://127.0.0.1") as client:
        document = (await client.get("/openapi.json")).json()
    start = document["paths"][f"{BASE_PATH}/orchestrators/{{functionName}}"]["post"]
    assert "enum" not in start["parameters"][0]["schema"]
