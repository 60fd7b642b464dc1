"""What the chaos and simulation tests run of instances that talk to each other: children, events, entities, locks.

Rule of this file: orchestrators and entities only. What they must come to is in ``messaging_judge.py``,
which shares no code with them but the arithmetic of one step.
"""

from __future__ import annotations

import asyncio
from dataclasses import field
from datetime import timedelta
from typing import Any

from durable import (
    EntityContext,
    EntityId,
    EntityOperationFailedError,
    OrchestrationContext,
    Registry,
    SubOrchestrationFailedError,
)
from tests.chaos import workload
from tests.chaos.workload import Job, advance, step

registry = Registry()
registry.include(workload.registry)

COUNTERS = ("left", "right", "middle")
ACCOUNTS = ("a", "b", "c", "d")


# --- entities ----------------------------------------------------------------------------


@registry.entity
class Counter:
    """Keeps who was here, in order."""

    entries: list[str] = field(default_factory=list)

    def add(self, entry: str) -> int:
        self.entries.append(entry)
        return len(self.entries)

    async def add_slowly(self, entry: str) -> int:
        await asyncio.sleep(0.01)
        return self.add(entry)

    def add_and_fail(self, entry: str) -> None:
        self.entries.append(entry)
        raise ValueError(entry)

    def forward(self, to: str, entry: str) -> None:
        EntityContext.current().signal_entity(Counter.add, to, entry)


@registry.entity
class Account:
    """A balance, and the transfers that made it."""

    balance: int = 0
    moves: dict[str, int] = field(default_factory=dict)

    def move(self, transfer: str, amount: int) -> int:
        if transfer in self.moves:
            raise ValueError(f"{transfer} was here before")
        self.moves[transfer] = amount
        self.balance += amount
        return self.balance

    def read(self) -> int:
        return self.balance


# --- children and detached instances -------------------------------------------------------


@registry.orchestrator
async def family(ctx: OrchestrationContext, value: int) -> dict[str, Any]:
    """Children of children, one with a name, two that fail; and news of an instance that is nobody's child."""
    named = offspring.options(instance_id=f"{ctx.instance_id}-named")
    left, right = await asyncio.gather(offspring(value, 2), named(value + 1, 1))
    refusals = []
    for call in (offspring(-1, 1), named(value, 0)):
        try:
            await call
        except SubOrchestrationFailedError as error:
            refusals.append(error.details.message)
    ctx.start_orchestration(herald, ctx.instance_id, value)
    news = await ctx.wait_for_external_event("news", int)
    return {"sum": left + right + news, "refusals": refusals}


@registry.orchestrator
async def offspring(ctx: OrchestrationContext, value: int, depth: int) -> int:
    if depth:
        return await offspring(await step(value) if value >= 0 else value, depth - 1)
    if value < 0:
        raise ValueError(f"{value} is refused")
    return await step(value)


@registry.orchestrator
async def herald(ctx: OrchestrationContext, to: str, value: int) -> None:
    await asyncio.sleep(0.05)
    ctx.send_event(to, "News", advance(value))


@registry.orchestrator
async def hopeless(ctx: OrchestrationContext, value: int) -> None:
    """It never ends by itself, nor do its children; one of them holds a lock."""
    async with asyncio.TaskGroup() as group:
        group.create_task(waiting())
        group.create_task(waiting.options(instance_id=f"{ctx.instance_id}-child")(ACCOUNTS[value % len(ACCOUNTS)]))
        group.create_task(step(value, 0.05))


@registry.orchestrator
async def waiting(ctx: OrchestrationContext, account: str | None = None) -> None:
    if account is None:
        await waiting(ACCOUNTS[0])
    else:
        async with ctx.lock(EntityId("account", account)):
            await ctx.wait_for_external_event("never")


@registry.orchestrator
async def patient(ctx: OrchestrationContext, value: int) -> None:
    """It waits until it is cancelled, and cleans up."""
    try:
        await ctx.wait_for_external_event("never")
    except asyncio.CancelledError:
        ctx.signal_entity(Counter.add, COUNTERS[2], f"{ctx.instance_id}:{await step(value)}")
        raise


# --- external events, and instances that continue as new -------------------------------------


@registry.orchestrator
async def gathering(ctx: OrchestrationContext, senders: int, count: int) -> list[list[int]]:
    """What several others send, in the order in which it comes."""
    for sender in range(senders):
        ctx.start_orchestration(sending, ctx.instance_id, sender, count)
    return [await ctx.wait_for_external_event("number", list[int]) for _ in range(senders * count)]


@registry.orchestrator
async def sending(ctx: OrchestrationContext, to: str, sender: int, count: int, first: int = 0) -> None:
    """Numbers in order, some of them at once; now and then as a new execution."""
    for number in range(first, count):
        ctx.send_event(to, "number", [sender, number])
        match (number + sender) % 5:
            case 1:
                await asyncio.sleep(0.01)
            case 3:
                await step(number)
            case 4:
                ctx.continue_as_new(to, sender, count, number + 1)


@registry.orchestrator
async def eternal(
    ctx: OrchestrationContext, senders: int, count: int, got: list[list[int]] | None = None
) -> list[list[int]]:
    """As gathering, but a new execution after every two."""
    if got is None:
        got = []
        for sender in range(senders):
            ctx.start_orchestration(sending, ctx.instance_id, sender, count)
    for _ in range(2):
        if len(got) < senders * count:
            got.append(await ctx.wait_for_external_event("number", list[int]))
    if len(got) < senders * count:
        ctx.continue_as_new(senders, count, got)
    return got


@registry.orchestrator
async def keyed(ctx: OrchestrationContext, count: int, got: list[int]) -> list[int]:
    """What a client raises with idempotency keys; a new execution after every three."""
    async with asyncio.timeout(3600):
        for _ in range(3):
            if len(got) < count:
                got.append(await ctx.wait_for_external_event("key", int))
        if len(got) < count:
            await step(len(got))
    if len(got) < count:
        ctx.continue_as_new(count, got)
    return got


# --- entities ----------------------------------------------------------------------------------


@registry.orchestrator
async def tally(ctx: OrchestrationContext, key: str, other: str) -> list[int]:
    me = ctx.instance_id
    ctx.signal_entity(Counter.add, key, f"{me}:0")
    places = [await ctx.call_entity(Counter.add, key, f"{me}:1")]
    try:
        await ctx.call_entity(Counter.add_and_fail, key, f"{me}:never")
    except EntityOperationFailedError:
        places.append(await ctx.call_entity(Counter.add_slowly, key, f"{me}:2"))
    ctx.signal_entity(Counter.add, key, f"{me}:later", signal_time=ctx.now + timedelta(seconds=0.2))
    await ctx.call_entity(Counter.forward, key, other, f"{me}:forwarded")
    more = (ctx.call_entity(Counter.add, key, f"{me}:{number}") for number in range(3, 6))
    return places + await asyncio.gather(*more)


@registry.orchestrator
async def transfer(ctx: OrchestrationContext, source: str, target: str, amount: int) -> list[int]:
    """The balances before and after: what is moved is moved at both ends by one turn."""
    me = ctx.instance_id
    async with ctx.lock(EntityId("account", source), EntityId("account", target)):
        before = await ctx.call_entity(Account.read, source) + await ctx.call_entity(Account.read, target)
        if amount % 2:
            await step(amount)
        moves = (
            ctx.call_entity(Account.move, source, me, -amount),
            ctx.call_entity(Account.move, target, me, amount),
        )
        return [before, sum(await asyncio.gather(*moves))]


@registry.orchestrator
async def audit(ctx: OrchestrationContext) -> int:
    """The sum of all accounts: it ends only when none of them is locked for ever."""
    async with ctx.lock(*(EntityId("account", key) for key in ACCOUNTS)):
        return sum([await ctx.call_entity(Account.read, key) for key in ACCOUNTS])


def messaging_job(number: int) -> Job:
    """The job of that number: the kinds take turns."""
    match number % 9:
        case 0:
            return Job("transfer", (ACCOUNTS[number // 9 % 4], ACCOUNTS[(number // 9 + 1) % 4], 1 + number % 10))
        case 1:
            return Job("family", (number,))
        case 2:
            return Job("eternal", (1 + number % 3, 2 + number % 4))
        case 3:
            return Job("tally", (COUNTERS[number % 2], COUNTERS[2]))
        case 4:
            return Job("transfer", (ACCOUNTS[number // 9 % 4], ACCOUNTS[(number // 9 + 3) % 4], 2 + number % 10))
        case 5:
            return Job("gathering", (1 + number % 2, 3 + number % 5))
        case 6:
            return Job("keyed", (4 + number % 3, []))
        case 7:
            return Job("hopeless", (number,))
        case _:
            return Job("patient", (number,))
