"""Polling inside an orchestrator, with the activity in a worker: what history holds, and what it never holds."""

from __future__ import annotations

from uuid import uuid4

from durable import OrchestrationContext, TaskHub
from durable.core import events as ev
from durable.httpcall.activity import HttpCaller
from durable.httpcall.values import ACTIVITY_NAME, Secret
from tests.http.server import Answer, LoopbackServer


async def test_a_long_operation_survives_in_history_without_its_credentials(
    server: LoopbackServer, caller: HttpCaller
) -> None:
    left = iter([Answer(202, {"Location": "/job", "Set-Cookie": "s=key-1"}), Answer(200, {}, b'{"n": 3}')])
    server.routes["/start"] = Answer(202, {"Location": "/job"})
    server.routes["/job"] = lambda asked: next(left)
    hub = TaskHub(f"memory://{uuid4().hex}", http=caller)

    @hub.orchestrator
    async def order(ctx: OrchestrationContext, url: str) -> int:
        response = await ctx.call_http("POST", url, json={}, headers={"Cookie": Secret("key")}, token_source="token")
        return int(response.json()["n"])

    async with hub.worker():
        handle = await hub.start(order, f"{server.url}/start")
        assert await handle.result(30) == 3
        history = await handle.history()
    assert [asked.headers["cookie"] for asked in server.asked] == ["key-1"] * 3
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer token-for-anyone"] * 3
    assert sum(isinstance(event, ev.TaskScheduled) and event.name == ACTIVITY_NAME for event in history) == 3
    assert sum(isinstance(event, ev.TimerFired) for event in history) == 2
    text = str(history)
    assert "key-1" not in text
    assert "token-for" not in text
    assert "***" in text
