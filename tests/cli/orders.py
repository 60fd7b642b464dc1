"""A user's module: ``durable worker tests.cli.orders:hub``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from durable import OrchestrationContext, Registry, TaskHub

registry = Registry()
registry.queue("mail")


@registry.activity
async def hello(name: str) -> str:
    return f"Hello {name}!"


@registry.activity
async def work(started: str, seconds: float) -> str:
    """Leaves a file when it begins, and takes its time."""
    await asyncio.to_thread(Path(started).touch)
    await asyncio.sleep(seconds)
    return "worked"


@registry.activity(queue="mail")
async def send(letter: str) -> str:
    return f"sent {letter}"


@registry.activity
async def loop_of_host() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@registry.orchestrator
async def host_loop(ctx: OrchestrationContext) -> str:
    return await loop_of_host()


@registry.orchestrator
async def post(ctx: OrchestrationContext, letter: str) -> str:
    return await send(letter)


@registry.orchestrator
async def greet(ctx: OrchestrationContext, name: str) -> str:
    return await hello(name)


@registry.orchestrator
async def refuse(ctx: OrchestrationContext) -> None:
    raise ValueError("not today")


@registry.orchestrator
async def family(ctx: OrchestrationContext, names: list[str]) -> list[str]:
    return [await greet(name) for name in names]


@registry.orchestrator
async def approval(ctx: OrchestrationContext) -> object:
    ctx.set_custom_status("waiting")
    return await ctx.wait_for_external_event("answer")


@registry.orchestrator
async def long_work(ctx: OrchestrationContext, started: str, seconds: float) -> str:
    return await work(started, seconds)


hub = TaskHub()
hub.include(registry)
not_a_hub = "text"
