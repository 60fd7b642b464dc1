"""Starting, following and telling instances over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from durable import RuntimeStatus, TaskHub
from durable.http.calls import BASE_PATH
from durable.http.histories import all_events, projected
from tests.e2e.waiting import until
from tests.http_api.service import BASE, error_of

LINKS = {
    "statusQueryGetUri": "",
    "sendEventPostUri": "/raiseEvent/{eventName}",
    "terminatePostUri": "/terminate?reason={text}",
    "rewindPostUri": "/rewind?reason={text}",
    "purgeHistoryDeleteUri": "",
    "restartPostUri": "/restart",
    "suspendPostUri": "/suspend?reason={text}",
    "resumePostUri": "/resume?reason={text}",
}


async def status_of(client: httpx.AsyncClient, instance_id: str, status: RuntimeStatus) -> dict[str, Any]:
    """The status as JSON, once it is this one."""

    async def look() -> Any:
        return (await client.get(f"/instances/{instance_id}")).json()

    found: dict[str, Any] = await until(look, lambda seen: seen.get("runtimeStatus") == status)
    return found


async def test_a_start_is_answered_with_all_links(client: httpx.AsyncClient) -> None:
    response = await client.post("/orchestrators/hello/order 7%25", json="Ann")
    instance = f"{BASE}/instances/order%207%25"
    assert response.status_code == 202
    assert response.json() == {"id": "order 7%"} | {name: instance + end for name, end in LINKS.items()}
    assert (response.headers["location"], response.headers["retry-after"]) == (instance, "10")
    assert response.headers["content-type"] == "application/json"


async def test_a_client_that_follows_the_links_needs_nothing_else(client: httpx.AsyncClient) -> None:
    """As clients of Durable Functions do: POST, then GET the Location after Retry-After for as long as it says 202."""
    started = await client.post("/orchestrators/approval", json={"order": 7})
    links = started.json()
    location, waits, polled = started.headers["location"], [], 0
    while (response := await client.get(location)).status_code == 202:
        location, polled = response.headers["location"], polled + 1
        waits.append(int(response.headers["retry-after"]))
        if response.json()["customStatus"] == "waiting":
            sent = await client.post(links["sendEventPostUri"].replace("{eventName}", "approved"), json=True)
            assert (sent.status_code, sent.content) == (202, b"")
            await until(client_status(client, links["statusQueryGetUri"]), lambda status: status != 202)
        await asyncio.sleep(0)  # a real client would wait as it is told; see test_two_services.py
    assert set(waits) == {5}
    assert response.status_code == 200
    body = response.json()
    assert (body["runtimeStatus"], body["output"]) == ("Completed", [{"order": 7}, True])
    assert (body["name"], body["instanceId"], body["input"]) == ("approval", links["id"], {"order": 7})


def client_status(client: httpx.AsyncClient, url: str) -> Any:
    async def look() -> int:
        return (await client.get(url)).status_code

    return look


@pytest.mark.parametrize("value", [None, 0, "text", [1, 2], {"a": [True, None]}, [], "ü\u0000"])
async def test_the_body_is_the_input(client: httpx.AsyncClient, value: Any) -> None:
    response = await client.post("/orchestrators/echo/one?timeout=30", json=value)
    assert (response.status_code, response.json()) == (200, value)
    status = (await client.get("/instances/one")).json()
    assert (status["input"], status["output"]) == (value, value)


async def test_no_body_is_no_argument(client: httpx.AsyncClient) -> None:
    assert (await client.post("/orchestrators/hello?timeout=30")).json() == "Hello world!"


async def test_several_arguments_are_spread(client: httpx.AsyncClient) -> None:
    response = await client.post("/orchestrators/add/sum?spread=true&timeout=30&pollingInterval=1", json=[3, 4])
    assert (response.status_code, response.json()) == (200, 7)
    assert (await client.get("/instances/sum")).json()["input"] == [3, 4]
    _, message = error_of(await client.post("/orchestrators/add?spread=true", json={"left": 1}), 400)
    assert "'spread'" in message


@pytest.mark.parametrize(
    ("path", "content", "part"),
    [
        ("/orchestrators/nobody", b"1", "registered: add"),
        ("/orchestrators/BuiltIn::CallEntity", b"1", "are the hub's own"),
        ("/orchestrators/hello", b"{no", "the body is not JSON"),
        ("/orchestrators/hello", b'"\\ud800"', "the body is not JSON"),
        ("/orchestrators/hello", b"NaN", "the body is not JSON"),
        ("/orchestrators/hello", b"[" * 5000, "the body is not JSON"),
        ("/orchestrators/hello", b"7", "argument name"),
        ("/orchestrators/add", b"7", "right"),
        ("/orchestrators/hello/@x", b"", "must not start with '@'"),
        ("/orchestrators/hello/a%23b", b"", "must not contain '#'"),
        (f"/orchestrators/hello/{'x' * 257}", b"", "1 to 256 characters"),
        ("/orchestrators/hello?timeout=0", b"", "'timeout'"),
        ("/orchestrators/hello?timeout=nan", b"", "'timeout'"),
        ("/orchestrators/hello?timeout=1&timeout=2", b"", "more than once"),
        ("/orchestrators/hello?pollingInterval=1", b"", "'pollingInterval'"),
        ("/orchestrators/hello?timeout=1&pollingInterval=2", b"", "'pollingInterval'"),
        ("/orchestrators/hello?spread=maybe", b"", "is not true or false"),
        ("/orchestrators/hello?startAt=soon", b"", "'startAt'"),
        ("/orchestrators/hello?onConflict=shrug", b"", "use_existing"),
        ("/orchestrators/hello?connection=other", b"", "'connection'"),
    ],
)
async def test_a_start_that_breaks_a_rule_is_refused(
    client: httpx.AsyncClient, hub: TaskHub, path: str, content: bytes, part: str
) -> None:
    _, message = error_of(await client.post(path, content=content), 400)
    assert part in message
    assert [one async for one in hub.query()] == []


async def test_an_id_that_is_taken_is_a_conflict(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/patient/one")
    kind, message = error_of(await client.post("/orchestrators/patient/one"), 409)
    assert (kind, "'one' exists already" in message) == ("InstanceExistsError", True)


async def test_another_task_hub_is_not_found_here(client: httpx.AsyncClient) -> None:
    assert (await client.get("/instances/x?taskHub=other&connection=Storage")).status_code == 404
    response = await client.post("/orchestrators/hello?taskhub=DEFAULT&connection=Storage&code=ignored")
    assert response.status_code == 202


# --- waiting for the end


async def test_a_wait_that_runs_out_is_a_start(client: httpx.AsyncClient) -> None:
    response = await client.post("/orchestrators/patient/one?timeout=0.05")
    assert (response.status_code, response.json()["id"]) == (202, "one")


async def test_a_wait_for_one_that_fails_is_500_with_its_status(client: httpx.AsyncClient) -> None:
    response = await client.post("/orchestrators/fail/one?timeout=30", json="no money")
    body = response.json()
    assert (response.status_code, body["runtimeStatus"]) == (500, "Failed")
    assert body["output"].endswith(
        "ActivityFailedError: activity 'refuse' (task 1) failed: builtins.ValueError: no money"
    )
    assert body["failureDetails"]["innerFailure"]["errorType"] == "builtins.ValueError"
    assert "Traceback" not in response.text
    flag = "returnInternalServerErrorOnFailure"
    assert [(await client.get(f"/instances/one?{flag}={on}")).status_code for on in ("false", "true")] == [200, 500]


async def test_a_wait_for_one_that_is_terminated_is_200_with_its_status(client: httpx.AsyncClient) -> None:
    waiting = asyncio.create_task(client.post("/orchestrators/patient/one?timeout=30"))
    await status_of(client, "one", RuntimeStatus.RUNNING)
    await client.post("/instances/one/terminate?reason=enough")
    response = await waiting
    assert response.status_code == 200
    assert (response.json()["runtimeStatus"], response.json()["output"]) == ("Terminated", "enough")


# --- looking


async def test_a_status_shows_what_is_asked_for(client: httpx.AsyncClient, hub: TaskHub) -> None:
    assert (await client.post("/orchestrators/hello/one?timeout=30", json="Ann")).json() == "Hello Ann!"
    plain = (await client.get("/instances/one")).json()
    assert plain["createdTime"] == (await hub.get("one").status()).created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "historyEvents" not in plain
    assert (await client.get("/instances/one?SHOWINPUT=False")).json()["input"] is None
    silent = (await client.get("/instances/one?showHistory=true")).json()["historyEvents"]
    full = (await client.get("/instances/one?showHistory=true&showHistoryOutput=true")).json()["historyEvents"]
    assert [row["EventType"] for row in silent] == ["ExecutionStarted", "TaskCompleted", "ExecutionCompleted"]
    assert [row.keys() & {"Input", "Result"} for row in silent] == [set()] * 3
    assert full[1].keys() == {"EventType", "FunctionName", "Input", "Result", "ScheduledTime", "Timestamp"}
    assert (full[1]["FunctionName"], full[1]["Result"]) == ("greet", "Hello Ann!")
    assert (full[2]["OrchestrationStatus"], full[2]["Result"]) == ("Completed", "Hello Ann!")
    assert full == projected(await hub.get("one").history(), show_output=True)


async def test_what_still_runs_is_shown_as_scheduled(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/patient/one")
    await status_of(client, "one", RuntimeStatus.RUNNING)

    async def rows() -> Any:
        return (await client.get("/instances/one?showHistory=true")).json()["historyEvents"]

    seen = await until(rows, lambda seen: len(seen) == 2)
    assert [row["EventType"] for row in seen] == ["ExecutionStarted", "TimerCreated"]
    assert seen[1]["FireAt"] > seen[1]["Timestamp"]


async def test_the_history_has_every_event(client: httpx.AsyncClient, hub: TaskHub) -> None:
    await client.post("/orchestrators/fail/one?timeout=30", json="no")
    response = await client.get("/instances/one/history")
    rows = response.json()
    history = await hub.get("one").history()
    assert [row["eventType"] for row in rows] == [event.type for event in history]
    assert rows == all_events(history)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    scheduled = next(row for row in rows if row["eventType"] == "TaskScheduled")
    assert (scheduled["name"], scheduled["input"], scheduled["taskId"]) == ("refuse", ["no"], 1)
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    assert (await client.get("/instances/none/history")).status_code == 404


async def test_the_history_of_a_former_execution(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/rounds/one?timeout=30", json=2)
    current, *former = (await client.get("/instances/one/executions")).json()
    assert current == (await client.get("/instances/one")).json()["executionId"]
    assert len(former) == 2
    for left, execution_id in enumerate([current, *former]):
        rows = (await client.get("/instances/one/history", params={"executionId": execution_id})).json()
        assert (rows[0]["eventType"], rows[0]["input"]) == ("ExecutionStarted", [left])
    _, message = error_of(await client.get("/instances/one/history?executionId=x"), 404)
    assert message.endswith(f"It has {current}, {former[0]}, {former[1]}")
    error_of(await client.get(f"/instances/one/history?executionId={'x' * 257}"), 400)
    assert (await client.get("/instances/none/executions")).status_code == 404


# --- telling


async def test_events_need_json(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/approval/one")
    path = "/instances/one/raiseEvent/approved"
    for headers in ({}, {"content-type": "text/plain"}):
        _, message = error_of(await client.post(path, content=b"1", headers=headers), 400)
        assert message == "Only application/json request content is supported"
    json_type = {"content-type": "Application/JSON; charset=utf-8"}
    error_of(await client.post(path, content=b"{", headers=json_type), 400)
    assert (await client.post(path, content=b"", headers=json_type)).status_code == 202
    assert (await status_of(client, "one", RuntimeStatus.COMPLETED))["output"] == [None, None]
    assert error_of(await client.post(path, json=1), 410)[0] == "InstanceFinishedError"
    assert error_of(await client.post("/instances/none/raiseEvent/x", json=1), 404)[0] == "InstanceNotFoundError"


async def test_the_name_of_an_event_may_hold_anything_printable(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/approval/one")
    assert (await client.post("/instances/one/raiseEvent/a%2Fb%3Fc%20%C3%A4", json=1)).status_code == 202
    rows = await until(
        lambda: history_rows(client), lambda rows: any(row["EventType"] == "EventRaised" for row in rows)
    )
    assert [row["Name"] for row in rows if "Name" in row] == ["a/b?c ä"]
    error_of(await client.post("/instances/one/raiseEvent/a%7Fb", json=1), 400)
    error_of(await client.post(f"/instances/one/raiseEvent/{'x' * 257}", json=1), 400)


async def history_rows(client: httpx.AsyncClient) -> Any:
    return (await client.get("/instances/one?showHistory=true")).json()["historyEvents"]


async def test_suspend_resume_cancel(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/patient/one")
    await status_of(client, "one", RuntimeStatus.RUNNING)
    assert (await client.post("/instances/one/suspend?reason=lunch")).status_code == 202
    suspended = await status_of(client, "one", RuntimeStatus.SUSPENDED)
    assert suspended["instanceId"] == "one"
    assert (await client.get("/instances/one")).status_code == 202
    assert (await client.post("/instances/one/resume")).status_code == 202
    await status_of(client, "one", RuntimeStatus.RUNNING)
    assert (await client.post("/instances/one/cancel?reason=changed%20mind")).status_code == 202
    assert (await status_of(client, "one", RuntimeStatus.CANCELED))["output"] == "changed mind"
    assert (await client.get("/instances/one")).status_code == 200


@pytest.mark.parametrize("verb", ["terminate", "cancel", "suspend", "resume", "rewind"])
async def test_what_is_not_there_or_over_is_told_nothing(client: httpx.AsyncClient, verb: str) -> None:
    error_of(await client.post(f"/instances/none/{verb}"), 404)
    await client.post("/orchestrators/hello/done?timeout=30")
    error_of(await client.post(f"/instances/done/{verb}"), 410)
    error_of(await client.post(f"/instances/done/{verb}?reason={'x' * 5000}"), 400)


async def test_only_a_failed_instance_is_rewound(client: httpx.AsyncClient) -> None:
    await client.post("/orchestrators/patient/runs")
    error_of(await client.post("/instances/runs/rewind"), 409)
    await client.post("/orchestrators/fail/one?timeout=30", json="again")
    before = (await client.get("/instances/one/history")).json()
    assert (await client.post("/instances/one/rewind?reason=mended")).status_code == 202

    async def look() -> Any:
        return (await client.get("/instances/one/history")).json()

    await until(look, lambda rows: len(rows) > len(before) and rows[-2]["eventType"] == "ExecutionCompleted")


async def test_anything_else_is_not_found(client: httpx.AsyncClient) -> None:
    for method, path in [("GET", "/"), ("PUT", "/instances"), ("GET", "/instances/a/b"), ("POST", "/instances/a")]:
        assert error_of(await client.request(method, path), 404)[0] == "NotFound"
    assert (await client.post("/makeprimary/")).status_code == 200
    assert (await client.get(f"http://127.0.0.1:8123{BASE_PATH}/../..")).status_code == 404


async def test_probes_need_nothing(client: httpx.AsyncClient) -> None:
    response = await client.get("http://elsewhere.example/healthz", headers={"x-forwarded-for": "192.0.2.1"})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
