"""Lists, purges, restarts and readiness over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest

from durable import TaskHub
from durable.http.calls import BASE_PATH
from durable.http.instances import TOKEN_HEADER
from durable.http.operations import OPERATIONS
from tests.e2e.waiting import until
from tests.http_api.fuzzing import api_schema, bounded, checks, server, use_known
from tests.http_api.service import MANAGEMENT, client_of, error_of, make_hub
from tests.http_api.test_injection import HOSTILE, requests

EVER = "createdTimeFrom=2020-01-01T00:00:00Z"

schema = api_schema(MANAGEMENT)


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A server to try the document on."""
    with server("memory://management") as origin:
        yield origin


_numbers = count()


@schema.parametrize()
@bounded
def test_the_api_conforms(case: Any, origin: str) -> None:
    use_known(case, next(_numbers))
    case.call_and_validate(base_url=origin, checks=checks(), timeout=30)


async def listed(client: httpx.AsyncClient, query: str, number: int) -> list[dict[str, Any]]:
    """What the list gives for a query, once it gives so many: a list may lag a moment behind a start."""

    async def look() -> Any:
        response = await client.get(f"/instances?{query}")
        assert response.status_code == 200, response.text
        return response.json()

    rows: list[dict[str, Any]] = await until(look, lambda rows: len(rows) == number)
    return rows


async def test_lists_are_filtered(client: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    await client.post("/orchestrators/hello/done-1?timeout=30", json="Ann")
    await client.post("/orchestrators/fail/bad-1?timeout=30", json="x")
    await client.post("/orchestrators/patient/wait-1")
    await listed(client, "", 3)
    await listed(client, "runtimeStatus=Running", 1)
    assert [row["instanceId"] for row in await listed(client, "instanceIdPrefix=done", 1)] == ["done-1"]
    rows = await listed(client, "runtimeStatus=completed,FAILED&showInput=false", 2)
    assert {row["instanceId"] for row in rows} == {"done-1", "bad-1"}
    assert [row["input"] for row in rows] == [None, None]
    await listed(client, "runtimeStatus=ContinuedAsNew", 0)
    start, end = before.isoformat()[:-6], (before + timedelta(hours=1)).isoformat().replace("+", "%2B")
    await listed(client, f"createdTimeFrom={start}Z&createdTimeTo={end}", 3)
    await listed(client, f"createdTimeTo={start}", 0)


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    ids = {f"ä{number}" for number in range(7)}
    for one in ids:
        await client.post(f"/orchestrators/patient/{one}")
    await listed(client, "", 7)
    pages: list[list[str]] = []
    headers: dict[str, str] = {}
    while not pages or headers:
        response = await client.get("/instances?top=3", headers=headers)
        pages.append([row["instanceId"] for row in response.json()])
        headers = {TOKEN_HEADER: token} if (token := response.headers.get(TOKEN_HEADER)) else {}
    assert [len(page) for page in pages] == [3, 3, 1]
    assert {one for page in pages for one in page} == ids


@pytest.mark.parametrize(
    ("query", "headers", "part"),
    [
        ("runtimeStatus=Happy", {}, "there are: Pending"),
        ("runtimeStatus=", {}, "'runtimeStatus'"),
        ("createdTimeFrom=yesterday", {}, "'createdTimeFrom'"),
        ("createdTimeFrom=2026-01-01T00:00:00+01:00", {}, "%2B"),
        ("top=0", {}, "from 1 to 1000"),
        ("top=ten", {}, "from 1 to 1000"),
        ("top=1001", {}, "from 1 to 1000"),
        ("instanceIdPrefix=" + "x" * 257, {}, "'instanceIdPrefix'"),
        ("runtimeStaus=Failed", {}, "is not known here"),
        ("", {TOKEN_HEADER: "no token"}, "not one that a page gave"),
        ("", {TOKEN_HEADER: "eyIkZ3QiOiAiIn0="}, "not one that a page gave"),
    ],
)
async def test_a_list_that_breaks_a_rule_is_refused(
    client: httpx.AsyncClient, query: str, headers: dict[str, str], part: str
) -> None:
    assert part in error_of(await client.get(f"/instances?{query}", headers=headers), 400)[1]


async def test_purging_one(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/hello/one?timeout=30")
    response = await client.delete("/instances/one")
    assert (response.status_code, response.json()) == (200, {"instancesDeleted": 1})
    error_of(await client.delete("/instances/one"), 404)
    await client.post("/orchestrators/patient/two")
    assert error_of(await client.delete("/instances/two"), 409)[0] == "InstanceNotFinishedError"


async def test_purging_many(client: httpx.AsyncClient) -> None:
    assert "'createdTimeFrom' is required" in error_of(await client.delete("/instances"), 400)[1]
    error_of(await client.delete(f"/instances?{EVER}&runtimestatuses=Failed"), 400)
    error_of(await client.delete(f"/instances?{EVER}"), 404)
    for name in ("a", "b", "c"):
        await client.post(f"/orchestrators/hello/{name}?timeout=30")
    await client.post("/orchestrators/patient/runs")
    await listed(client, "runtimeStatus=Completed", 3)
    error_of(await client.delete(f"/instances?{EVER}&runtimeStatus=Failed,Running"), 404)
    error_of(await client.delete("/instances?createdTimeFrom=2020-01-01&createdTimeTo=2020-01-02"), 404)
    response = await client.delete(f"/instances?{EVER}&runtimeStatus=Completed")
    assert (response.status_code, response.json()) == (200, {"instancesDeleted": 3})
    assert [row["instanceId"] for row in await listed(client, "", 1)] == ["runs"]


async def test_restarting(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/hello/one?timeout=30", json="Ann")
    response = await client.post("/instances/one/restart?timeout=30")
    assert (response.status_code, response.json()) == (200, "Hello Ann!")
    response = await client.post("/instances/one/restart")
    assert response.status_code == 202
    assert response.json()["id"] != "one"
    assert response.headers["location"] == response.json()["statusQueryGetUri"]
    response = await client.post("/instances/one/restart?restartWithNewInstanceId=false")
    assert (response.status_code, response.json()["id"]) == (202, "one")
    assert error_of(await client.post("/instances/none/restart"), 400)[0] == "BadRequest"
    await client.post("/orchestrators/patient/runs")
    error_of(await client.post("/instances/runs/restart?restartWithNewInstanceId=false"), 409)


async def test_a_start_for_later_waits(client: httpx.AsyncClient) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+", "%2B")
    assert (await client.post(f"/orchestrators/hello/one?startAt={later}")).status_code == 202
    response = await client.get("/instances/one")
    assert (response.status_code, response.json()["runtimeStatus"]) == (202, "Pending")


async def test_a_start_may_use_what_is_there(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        response = await client.post("/orchestrators/patient/one?onConflict=use_existing")
        assert (response.status_code, response.json()["id"]) == (202, "one")
    error_of(await client.post("/orchestrators/patient/one?onConflict=replace_finished"), 409)


async def test_ready_while_the_worker_is(client: httpx.AsyncClient, hub: TaskHub) -> None:
    url = str(client.base_url).removesuffix(f"{BASE_PATH}/")
    response = await client.get(f"{url}/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_not_ready_before_the_hub_is_connected(hub_url: str) -> None:
    async with client_of(make_hub(hub_url).http_app(), "http://127.0.0.1") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503


@pytest.mark.mongodb
async def test_no_parameter_of_these_is_an_operator_either(mongodb_database_url: str) -> None:
    hub = make_hub(mongodb_database_url)
    async with hub.worker(), client_of(hub.http_app()) as client:
        assert (await client.post("/orchestrators/hello/victim?timeout=30")).status_code == 200
        await listed(client, "runtimeStatus=Completed", 1)
        for operation in (one for one in OPERATIONS if one.name in MANAGEMENT and one.parameters):
            for value in HOSTILE:
                for path, query, headers in requests(operation, value):
                    response = await client.request(operation.method, path, params=query, headers=headers)
                    assert response.status_code in (200, 400, 404), (path, query, response.text)
                    assert "victim" not in response.text or "error" in response.json(), (path, query)
        assert [row["instanceId"] for row in await listed(client, "", 1)] == ["victim"]
