"""Entities, on every store: one operation at a time, all of it or nothing, exactly once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from durable import (
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    EntityState,
    OrchestrationContext,
    OrchestrationFailedError,
    RegistrationError,
    TaskHub,
    UnknownFunctionError,
)
from durable.worker import entities
from tests.e2e.waiting import until

DEADLINE = 30


class Point(BaseModel):
    x: int
    y: int


def counting(hub_url: str) -> tuple[TaskHub, Any]:
    hub = TaskHub(hub_url)

    @hub.entity
    @dataclass
    class Counter:
        value: int = 0
        log: list[str] = field(default_factory=list)

        def add(self, amount: int = 1) -> int:
            self.value += amount
            return self.value

        async def slow(self, amount: int) -> int:
            before = self.value
            await asyncio.sleep(0.001)
            self.value = before + amount
            return self.value

        def fail(self, amount: int) -> None:
            self.value += amount
            EntityContext.current().signal_entity(EntityId("counter", "other"), "add", 100)
            raise ValueError("no")

        def reset(self) -> None:
            self.value = 0

        def now(self) -> str:
            return EntityContext.current().now.isoformat()

    return hub, Counter


async def test_call_signal_read_and_delete(hub_url: str) -> None:
    hub, counter = counting(hub_url)
    me = EntityId("Counter", "me")

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> list[Any]:
        first = await ctx.call_entity(counter.add, "me", 5)
        ctx.signal_entity(counter.add, "me", amount=10)
        ctx.signal_entity(me, "add")
        second = await ctx.call_entity(me, "slow", 4)
        gathered = await asyncio.gather(*[ctx.call_entity(counter.add, "me", 1) for _ in range(5)])
        return [first, second, gathered]

    async with hub.worker():
        assert await hub.read_entity(me) is None
        handle = await hub.start(orchestration)
        assert await handle.result(DEADLINE) == [5, 20, [21, 22, 23, 24, 25]]
        state = await until(lambda: hub.read_entity(me), lambda s: s is not None and s.state.value == 25)
        assert isinstance(state.state, counter)
        await hub.signal_entity(counter.add, "me", 75)
        assert await hub.call_entity(counter.add, "me", 0) == 100
        await hub.signal_entity(me, "delete")
        await until(lambda: hub.read_entity(me), lambda s: s is None)
        assert await hub.call_entity(counter.add, "me") == 1


async def test_an_operation_that_raises_undoes_everything(hub_url: str) -> None:
    hub, counter = counting(hub_url)

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> list[Any]:
        await ctx.call_entity(counter.add, "me", 5)
        try:
            await ctx.call_entity(counter.fail, "me", 1000)
        except EntityOperationFailedError as error:
            assert error.details.is_caused_by(ValueError)
            message = str(error)
        return [message, await ctx.call_entity(counter.add, "me", 0)]

    async with hub.worker():
        message, value = await (await hub.start(orchestration)).result(DEADLINE)
        assert message.startswith("operation 'fail' of entity @counter@me")
        assert value == 5
        assert await hub.read_entity(EntityId("counter", "other")) is None
        with pytest.raises(OrchestrationFailedError) as caught:
            await hub.call_entity(counter.fail, "me", 1)
        assert caught.value.details.is_caused_by(ValueError)


async def test_many_signals_to_one_arrive_once_each(hub_url: str) -> None:
    hub, counter = counting(hub_url)

    @hub.orchestrator
    async def signaller(ctx: OrchestrationContext, count: int) -> None:
        for _ in range(count):
            ctx.signal_entity(counter.add, "sum", 1)
            ctx.signal_entity(EntityId("counter", "sum"), "slow", 1)

    async with hub.worker():
        await asyncio.gather(*[(await hub.start(signaller, 20)).result(DEADLINE) for _ in range(10)])
        await asyncio.gather(*[hub.signal_entity(counter.add, "sum", 1) for _ in range(50)])
        await until(
            lambda: hub.read_entity(EntityId("counter", "sum")), lambda s: s is not None and s.state.value == 450
        )


async def test_scheduled_signals_wait_for_their_time(hub_url: str) -> None:
    hub, counter = counting(hub_url)
    me = EntityId("counter", "me")

    @hub.orchestrator
    async def orchestration(ctx: OrchestrationContext) -> Any:
        ctx.signal_entity(counter.add, "me", 10, signal_time=ctx.now + timedelta(milliseconds=200))
        ctx.signal_entity(counter.add, "me", 1000, signal_time=ctx.now + timedelta(days=3650))
        return await ctx.call_entity(counter.add, "me", 1)

    async with hub.worker():
        assert await (await hub.start(orchestration)).result(DEADLINE) in (1, 11)
    async with hub.worker():
        await hub.signal_entity(counter.add, "me", 100, signal_time=datetime.now(UTC) + timedelta(milliseconds=50))
        await until(lambda: hub.read_entity(me), lambda s: s.state.value == 111)


async def test_entities_start_orchestrations_and_tell_others(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def follow_up(ctx: OrchestrationContext, order: str) -> str:
        return f"{order} {await ctx.wait_for_external_event('paid')}"

    @hub.entity
    class Shop:
        orders: int = 0

        def order(self, what: str) -> str:
            ctx = EntityContext.current()
            self.orders += 1
            assert ctx.caller_id is not None
            ctx.signal_entity(Ledger.book, "main", what)
            started = ctx.start_orchestration(follow_up, what, instance_id=f"order-{self.orders}")
            ctx.send_event(started, "paid", 12)
            return started

    @hub.entity
    class Ledger:
        booked: list[str] = field(default_factory=list)

        def book(self, what: str) -> None:
            self.booked.append(what)

    async with hub.worker():
        started = await hub.call_entity(Shop.order, "s", "tea")
        assert await hub.get(started).result(DEADLINE) == "tea 12"
        ledger = await until(lambda: hub.read_entity(EntityId("ledger", "main")), lambda s: s is not None)
        assert ledger.state.booked == ["tea"]


async def test_pydantic_state_and_typed_values(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.entity(name="cursor")
    class Cursor(BaseModel):
        at: Point = Point(x=0, y=0)
        moves: int = 0

        def move(self, by: Point) -> Point:
            self.at = Point(x=self.at.x + by.x, y=self.at.y + by.y)
            self.moves += 1
            return self.at

    async with hub.worker():
        assert await hub.call_entity(Cursor.move, "c", Point(x=1, y=2)) == Point(x=1, y=2)
        assert await hub.call_entity(Cursor.move, "c", Point(x=1, y=2)) == Point(x=2, y=4)
        state = await until(lambda: hub.read_entity(EntityId("cursor", "c")), lambda s: s.state.moves == 2)
        assert state.state.at == Point(x=2, y=4)


async def test_listing(hub_url: str) -> None:
    hub, counter = counting(hub_url)

    @hub.entity
    class Other:
        n: int = 0

        def touch(self) -> None:
            self.n += 1

    async with hub.worker():
        for n in range(7):
            await hub.signal_entity(counter.add, f"c{n}", n)
        await hub.signal_entity(Other.touch, "o")
        found = await until(lambda: hub.query_entities(page_size=3), lambda all_: len(all_) == 8)
        assert {str(one.entity_id) for one in found} == {*(f"@counter@c{n}" for n in range(7)), "@other@o"}
        found = await until(lambda: hub.query_entities("COUNTER", page_size=3), lambda some: len(some) == 7)
        assert {one.state.value for one in found} == set(range(7))
        assert [one async for one in hub.query()] == []


def _has_value(value: int, found: EntityState | None) -> bool:
    return found is not None and found.state.value == value


async def test_state_and_waiting_operations_survive_restarts(hub_url: str) -> None:
    hub, counter = counting(hub_url)
    me = EntityId("counter", "me")
    async with hub:
        for n in range(5):
            await hub.signal_entity(counter.add, "me", 1)
            async with hub.worker():
                await hub.signal_entity(counter.add, "me", 1)
                await until(lambda: hub.read_entity(me), partial(_has_value, 2 * n + 2))


async def test_history_stays_short(hub_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "ROLL_AT", 300)  # so that a few hundred signals show it on a slow store, too
    hub, counter = counting(hub_url)
    me = EntityId("counter", "me")

    @hub.orchestrator
    async def busy(ctx: OrchestrationContext, rounds: int) -> int:
        total = 0
        for _ in range(rounds):
            for _ in range(60):
                ctx.signal_entity(counter.add, "me", 1)
            total = await ctx.call_entity(counter.add, "me", 0)
        return total

    async with hub.worker():
        handle = await hub.start(busy, 6)
        assert await handle.result(60) == 360
        history = await hub.get(str(me)).history()
        assert len(history) < 450
        assert (await hub.get(str(me)).status()).execution_id.partition(".")[2] != ""
    async with hub.worker():
        assert await hub.call_entity(counter.add, "me", 1) == 361


async def test_wrong_use_says_what_is_wrong(hub_url: str) -> None:
    hub, _ = counting(hub_url)
    with pytest.raises(RegistrationError, match="without arguments"):

        @hub.entity
        class Needs:
            value: int

    with pytest.raises(RegistrationError, match="taken by"):

        @hub.entity(name="COUNTER")
        class Second:
            value: int = 0

    with pytest.raises(ValueError, match="entity key"):
        EntityId("counter", "")
    with pytest.raises(ValueError, match="'@'"):
        EntityId("a@b", "x")

    @hub.orchestrator
    async def calls_what_is_not_there(ctx: OrchestrationContext) -> str:
        try:
            await ctx.call_entity(EntityId("counter", "me"), "subtract", 1)
        except UnknownFunctionError as error:
            return str(error)
        return "not reached"

    async with hub.worker():
        handle = await hub.start(calls_what_is_not_there)
        assert "it has: add, delete, fail, now, reset, slow" in await handle.result(DEADLINE)
        with pytest.raises(TypeError, match="neither an EntityId"):
            await hub.signal_entity(print, "x")


async def test_what_an_entity_does_not_take_is_refused(hub_url: str) -> None:
    hub, counter = counting(hub_url)
    async with hub.worker():
        assert await hub.call_entity(counter.add, "me", 1) == 1
        with pytest.raises(ValueError, match="is an entity"):
            await hub.get("@counter@me").terminate()
        await until(hub.query, lambda found: found == [])  # the call itself leaves nothing behind


async def test_a_default_state_that_does_not_fit_its_annotations(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.entity
    @dataclass
    class Wrong:
        value: int = "text"  # type: ignore[assignment]

    with pytest.raises(RegistrationError, match="default state"):
        async with hub.worker():
            pass
