"""What the tests of the HTTP API talk to: a hub with a few definitions, and clients of its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from durable import OrchestrationContext, Registry, TaskHub
from durable.http.calls import BASE_PATH

ORIGIN = "http://127.0.0.1:8123"
BASE = ORIGIN + BASE_PATH

MANAGEMENT = frozenset({"listInstances", "purgeInstances", "purgeInstance", "restartInstance", "isReady"})
"""The operations that test_management_routes.py tests."""

registry = Registry()


@registry.activity
async def greet(name: str) -> str:
    return f"Hello {name}!"


@registry.activity
async def refuse(reason: str) -> str:
    raise ValueError(reason)


@registry.orchestrator
async def hello(ctx: OrchestrationContext, name: str = "world") -> str:
    return await greet(name)


@registry.orchestrator
async def echo(ctx: OrchestrationContext, value: Any = None) -> Any:
    return value


@registry.orchestrator
async def add(ctx: OrchestrationContext, left: int, right: int) -> int:
    return left + right


@registry.orchestrator
async def fail(ctx: OrchestrationContext, reason: str) -> str:
    return await refuse(reason)


@registry.orchestrator
async def approval(ctx: OrchestrationContext, what: Any = None) -> Any:
    ctx.set_custom_status("waiting")
    return [what, await ctx.wait_for_external_event("approved")]


@registry.orchestrator
async def rounds(ctx: OrchestrationContext, left: int) -> int:
    if left > 0:
        ctx.continue_as_new(left - 1)
    return left


@registry.orchestrator
async def patient(ctx: OrchestrationContext, seconds: float = 3600) -> str:
    await asyncio.sleep(seconds)
    return "done"


@registry.entity
class Counter:
    value: int = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount

    def note(self, text: str) -> None:
        self.value = len(text)


def make_hub(url: str, **settings: Any) -> TaskHub:
    """A hub with the definitions above."""
    hub = TaskHub(url, **settings)
    hub.include(registry)
    return hub


@asynccontextmanager
async def client_of(
    app: Any, base_url: str = BASE, root_path: str = "", **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that talks to the application in this process, which the server has under ``root_path``."""
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url=base_url, timeout=30, **options) as client:
        yield client


def error_of(response: httpx.Response, status: int) -> tuple[str, str]:
    """Type and message of an error, which must have that status and the one shape that errors have."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"type", "message"}
    assert "Traceback" not in response.text
    return body["error"]["type"], body["error"]["message"]
