"""External events, on every store: nothing is lost, nothing comes twice, first come first served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    InstanceFinishedError,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    PayloadError,
    RuntimeStatus,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30


@dataclass
class Order:
    item: str
    count: int


async def test_an_early_event_waits_and_names_do_not_distinguish_case(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def nothing() -> None:
        return None

    @hub.orchestrator
    async def listener(ctx: OrchestrationContext) -> list[Any]:
        first = await ctx.wait_for_external_event("start")
        await nothing()
        order = await ctx.wait_for_external_event("ORDER", Order)
        return [first, order.item, order.count, await ctx.wait_for_external_event("order", Order)]

    async with hub.worker():
        handle = await hub.start(listener)
        await handle.raise_event("Order", Order("tea", 2))
        await handle.raise_event("oRDER", {"item": "milk", "count": 1})
        await handle.raise_event("Start", "now")
        assert await handle.result(DEADLINE) == ["now", "tea", 2, {"item": "milk", "count": 1}]


async def test_events_of_a_name_come_in_the_order_raised(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def collect(ctx: OrchestrationContext, count: int) -> list[int]:
        return [await ctx.wait_for_external_event("n", int) for _ in range(count)]

    async with hub.worker():
        handle = await hub.start(collect, 30)
        for n in range(30):
            await handle.raise_event("n", n)
        assert await handle.result(DEADLINE) == list(range(30))


async def test_several_who_wait_are_served_in_order(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def many(ctx: OrchestrationContext) -> list[int]:
        futures = [ctx.wait_for_external_event("n", int) for _ in range(4)]
        futures[1].cancel()
        ctx.set_custom_status("listening")
        return [await futures[n] for n in (0, 2, 3)]

    async with hub.worker():
        handle = await hub.start(many)
        await until(handle.status, lambda s: s.custom_status == "listening")
        for n in range(3):
            await handle.raise_event("n", n)
        assert await handle.result(DEADLINE) == [0, 1, 2]


async def test_a_waiter_that_timed_out_takes_nothing(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def impatient(ctx: OrchestrationContext) -> list[Any]:
        heard: list[Any] = []
        try:
            await asyncio.wait_for(ctx.wait_for_external_event("x"), 0.02)
        except TimeoutError:
            heard.append("timeout")
        try:
            await ctx.wait_for_external_event("x", timeout=timedelta(milliseconds=20))
        except TimeoutError as error:
            heard.append(str(error))
        heard.append(await ctx.wait_for_external_event("x", timeout=0.02, default="nobody"))
        ctx.set_custom_status("now")
        heard.append(await ctx.wait_for_external_event("x", str))
        heard.append(await ctx.wait_for_external_event("x", timeout=3600, default="nobody"))
        return heard

    async with hub.worker():
        handle = await hub.start(impatient)
        await until(handle.status, lambda s: s.custom_status == "now")
        await handle.raise_event("x", "heard")
        await handle.raise_event("x", "again")
        expected = ["timeout", "no event 'x' came within 0.02 s", "nobody", "heard", "again"]
        assert await handle.result(DEADLINE) == expected


async def test_data_that_does_not_fit_is_an_error_at_the_await(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def picky(ctx: OrchestrationContext) -> int:
        try:
            return await ctx.wait_for_external_event("n", int)
        except PayloadError as error:
            ctx.set_custom_status(str(error))
        return await ctx.wait_for_external_event("n", int)

    async with hub.worker():
        handle = await hub.start(picky)
        await handle.raise_event("n", "seven")
        await handle.raise_event("n", 7)
        assert await handle.result(DEADLINE) == 7
        assert "the data of event 'n' does not fit" in (await handle.status()).custom_status


async def test_from_orchestrator_to_orchestrator(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def ping(ctx: OrchestrationContext, other: str) -> list[int]:
        heard = []
        for n in range(3):
            ctx.send_event(other, "ping", n)
            heard.append(await ctx.wait_for_external_event("pong", int))
        ctx.send_event("nobody-there", "ping", 0)
        return heard

    @hub.orchestrator
    async def pong(ctx: OrchestrationContext, other: str) -> None:
        for _ in range(3):
            n = await ctx.wait_for_external_event("ping", int)
            ctx.send_event(other, "pong", n * 10)

    async with hub.worker():
        await hub.start(pong, "a", instance_id="b")
        handle = await hub.start(ping, "b", instance_id="a")
        assert await handle.result(DEADLINE) == [0, 10, 20]


async def test_an_idempotency_key_delivers_once(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def collect(ctx: OrchestrationContext) -> list[Any]:
        heard = []
        while (value := await ctx.wait_for_external_event("pay")) != "end":
            heard.append(value)
        return heard

    async with hub.worker():
        handle = await hub.start(collect)
        for _ in range(3):
            await handle.raise_event("pay", 100, idempotency_key="invoice-1")
        await handle.raise_event("pay", 200, idempotency_key="invoice-2")
        await until(handle.history, lambda h: sum(isinstance(e, ev.EventRaised) for e in h) == 2)
        await handle.raise_event("pay", 100, idempotency_key="invoice-1")  # when it is a tombstone
        await handle.raise_event("pay", "end")
        assert await handle.result(DEADLINE) == [100, 200]


async def test_who_cannot_take_an_event_says_so(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def short(ctx: OrchestrationContext) -> None:
        return None

    async with hub.worker():
        with pytest.raises(InstanceNotFoundError, match="nobody"):
            await hub.get("nobody").raise_event("x")
        handle = await hub.start(short)
        await handle.result(DEADLINE)
        with pytest.raises(InstanceFinishedError, match="Completed"):
            await handle.raise_event("x")
        with pytest.raises(ValueError, match="event name ''"):
            await handle.raise_event("")
        with pytest.raises(PayloadError, match="the data of event 'x'"):
            await handle.raise_event("x", object())


async def test_events_survive_restarts(hub_url: str) -> None:
    """Raised while no worker runs; taken in, with the instance gone from memory, while others wait."""
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def collect(ctx: OrchestrationContext) -> list[int]:
        await ctx.wait_for_external_event("go")
        return [await ctx.wait_for_external_event("n", int) for _ in range(4)]

    async with hub:
        async with hub.worker():
            handle = await hub.start(collect)
            await handle.raise_event("n", 0)
            await until(handle.history, lambda h: any(isinstance(e, ev.EventRaised) for e in h))
        await handle.raise_event("n", 1)
        await handle.raise_event("n", 2)
        assert (await handle.status()).runtime_status is RuntimeStatus.RUNNING
        async with hub.worker():
            await handle.raise_event("go")
            await until(handle.history, lambda h: sum(isinstance(e, ev.EventRaised) for e in h) == 4)
        async with hub.worker():
            await handle.raise_event("n", 3)
            assert await handle.result(DEADLINE) == [0, 1, 2, 3]


async def test_an_unhandled_timeout_fails_the_instance(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def impatient(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("never", timeout=0.01)

    async with hub.worker():
        handle = await hub.start(impatient)
        with pytest.raises(OrchestrationFailedError, match="no event 'never' came"):
            await handle.result(DEADLINE)
