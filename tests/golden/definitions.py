"""The orchestrators whose histories are kept. Their code never changes: a new pattern gets a new one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import anyio

from durable import ActivityFailedError, OrchestrationContext, Registry

registry = Registry()
registry.queue("studio", concurrency=2)


@registry.activity
async def echo(value: Any) -> Any:
    return value


@registry.activity
async def fail(message: str) -> None:
    raise ValueError(message)


@registry.activity
async def endless() -> None:
    await asyncio.Event().wait()


@registry.orchestrator
async def chain(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await echo(city) for city in cities]


@registry.orchestrator
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    values = await asyncio.gather(*[echo(n) for n in range(width)])
    ctx.set_custom_status({"gathered": len(values)})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(echo(n)) for n in values]
    return sum(task.result() for task in tasks)


@registry.orchestrator
async def timers(ctx: OrchestrationContext) -> list[str]:
    log = []
    await asyncio.sleep(0.05)
    log.append("slept")
    try:
        async with asyncio.timeout(0.05):
            await endless()
    except TimeoutError:
        log.append("timed out")
    async with asyncio.timeout(3600):
        log.append(await echo("in time"))
    await ctx.create_timer(timedelta(seconds=-1))
    return log


@registry.orchestrator
async def failures(ctx: OrchestrationContext) -> str:
    caught = await asyncio.gather(fail("a"), echo("b"), fail("c"), return_exceptions=True)
    assert [isinstance(one, ActivityFailedError) for one in caught] == [True, False, True]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("d"))
            group.create_task(endless())
            group.create_task(asyncio.sleep(3600))
    except* ActivityFailedError:
        pass
    await fail("at last")
    return "not reached"


@registry.orchestrator
async def sets_of_tasks(ctx: OrchestrationContext) -> list[Any]:
    """Everything that iterates over sets of tasks or scopes, where order could leak in."""
    order: list[Any] = []

    async def named(name: str) -> str:
        try:
            return str(await echo(name))
        except asyncio.CancelledError:
            order.append(f"cancelled {name}")
            raise

    async def stays(name: str) -> None:
        try:
            await endless()
        finally:
            order.append(f"left {name}")

    done, _ = await asyncio.wait([asyncio.create_task(named(f"w{n}")) for n in range(5)])
    order += [task.result() for task in done]
    order += [await one for one in asyncio.as_completed([named(f"c{n}") for n in range(5)])]
    async with anyio.create_task_group() as group:
        for n in range(5):
            group.start_soon(stays, f"s{n}")
        await echo("settle")
        group.cancel_scope.cancel()
    order += [str(ctx.new_uuid()), ctx.random.randrange(10**9)]
    return order


@registry.orchestrator
async def queued(ctx: OrchestrationContext, names: list[str]) -> list[str]:
    return [await echo.options(queue="studio", priority=place, key=name)(name) for place, name in enumerate(names)]
