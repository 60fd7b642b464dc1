"""How users write against the API, as mypy and pyright must see it. Checked, never run.

``assert_type`` is the test. Where a mistake must be refused stands a ``type: ignore`` with mypy's code and a
``pyright: ignore`` with its rule: either checker reports one that is not needed.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from random import Random
from typing import Any, assert_type
from uuid import UUID

from durable import (
    ActivityContext,
    EntityContext,
    EntityId,
    EntityState,
    FailureDetails,
    InstanceHandle,
    InstancePage,
    InstanceStatus,
    OrchestrationContext,
    OrchestrationFailedError,
    Registry,
    RetryPolicy,
    RuntimeStatus,
    Saga,
    Settings,
    TaskHub,
)
from durable.backend import Backend
from durable.backend_url import create_backend
from durable.core.events import HistoryEvent

hub = TaskHub("sqlite:///hello.db", name="shop", settings=Settings(partitions=4))
orders = Registry()


@hub.activity
async def say_hello(city: str, *, loudly: bool = False) -> str:
    return f"Hello {city}!" if loudly else ActivityContext.current().idempotency_key


@orders.activity
def count_letters(text: str) -> int:
    return len(text)


@hub.activity(name="charge", timeout=timedelta(minutes=1))
async def charge_card(amount: int) -> dict[str, int]:
    return {"charged": amount}


@hub.orchestrator
async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await say_hello(city) for city in cities]


@orders.orchestrator(name="order")
async def order(ctx: OrchestrationContext, amount: int, note: str = "") -> int:
    assert_type(await say_hello("Tokyo", loudly=True), str)
    assert_type(await count_letters(note), int)
    assert_type(await charge_card.options(timeout=timedelta(seconds=5))(amount), dict[str, int])
    both = await asyncio.gather(say_hello("a"), count_letters("b"))
    assert_type(both, tuple[str, int])
    assert_type(await asyncio.wait_for(say_hello("a"), 5), str)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(say_hello("a"))
    assert_type(task.result(), str)

    assert_type(await ctx.call_activity(say_hello, "Tokyo"), str)
    assert_type(await ctx.call_activity("charge", 1), Any)
    assert_type(await ctx.create_timer(timedelta(days=30)), None)
    assert_type(ctx.now, datetime)
    assert_type(ctx.new_uuid(), UUID)
    assert_type(ctx.random, Random)
    assert_type(OrchestrationContext.current().instance_id, str)
    ctx.set_custom_status({"paid": amount})
    return amount


@hub.entity
class Account:
    balance: int = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    async def audit(self) -> str:
        return EntityContext.current().entity_id.key


@hub.orchestrator
async def everything(ctx: OrchestrationContext, amount: int) -> None:
    quick = RetryPolicy(max_attempts=2, first_interval=timedelta(seconds=1), retry_on=ConnectionError)
    assert_type(await charge_card.options(retry=quick)(amount), dict[str, int])
    assert_type(await order(amount, note="x"), int)
    assert_type(await order.options(instance_id="o-1", retry=quick, parent_close="abandon")(amount), int)
    assert_type(await ctx.call_sub_orchestrator(order, amount), int)
    assert_type(await ctx.call_sub_orchestrator("order", amount), Any)
    assert_type(ctx.start_orchestration(order, amount), str)
    assert_type(await ctx.wait_for_external_event("approved", bool, timeout=60, default=False), bool)
    assert_type(await ctx.wait_for_external_event("anything"), Any)
    assert_type(await ctx.call_entity(Account.deposit, "alice", amount), int)
    assert_type(await ctx.call_entity(Account.audit, "alice"), str)
    assert_type(await ctx.call_entity(EntityId("account", "alice"), "deposit", 1), Any)
    async with ctx.lock(EntityId("account", "alice"), EntityId("account", "bob")), Saga() as saga:
        saga.add(say_hello, "Tokyo", loudly=True)
    if ctx.patched("newer"):
        ctx.continue_as_new(amount)


async def mistakes() -> None:
    await order("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await hub.call_entity(Account.deposit, "alice", "ten")  # type: ignore[call-overload]  # pyright: ignore
    order.options(parent_close="leave")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await say_hello(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await say_hello("a", loud=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await count_letters()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def client() -> None:
    hub.include(orders)
    async with hub.worker(max_activities=10):
        handle = await hub.start(hello_sequence, ["Tokyo"], instance_id="greetings", tags={"team": "a"})
        assert_type(handle, InstanceHandle[list[str]])
        assert_type(await handle.result(timeout=timedelta(seconds=10)), list[str])
        assert_type(await hub.start("order", 1, note="x"), InstanceHandle[Any])
        status = await hub.get("greetings").status()
        assert_type(status, InstanceStatus)
        assert_type(status.runtime_status, RuntimeStatus)
        assert_type(await handle.history(), list[HistoryEvent])
        await handle.raise_event("approved", True, idempotency_key="once")
        assert_type(await hub.call_entity(Account.deposit, "alice", 1), int)
        assert_type(await hub.read_entity(EntityId("account", "alice")), EntityState | None)
    async with hub:
        async for found in hub.query(status=[RuntimeStatus.FAILED], name="order"):
            assert_type(found, InstanceStatus)
        query = hub.query(tags={"team": "a"}, created_between=(None, None), custom_status=["x"], order="oldest")
        async for page in query.pages():
            assert_type(page, InstancePage)
        assert_type(await query.count(by="name"), dict[str, int])
        assert_type(await query.terminate("enough", progress=print), int)
        assert_type(await hub.count("status", name="order"), dict[str, int])
        hub.query(order="last")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        hub.query(color="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def failures(handle: InstanceHandle[int]) -> None:
    try:
        await handle.result()
    except OrchestrationFailedError as error:
        assert_type(error.details, FailureDetails)


def a_store_of_ones_own() -> TaskHub:
    backend = create_backend("memory://", "shop")
    assert_type(backend, Backend)
    return TaskHub(backend)
