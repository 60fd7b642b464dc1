"""Critical sections, on every store: several entities locked together, released on every way out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    EntityId,
    LockingRulesViolationError,
    OrchestrationContext,
    OrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30
A, B, C = (EntityId("account", key) for key in "abc")


def bank(hub_url: str) -> tuple[TaskHub, Any, Any]:
    hub = TaskHub(hub_url)

    @hub.entity
    class Account:
        balance: int = 100

        def add(self, amount: int) -> int:
            self.balance += amount
            return self.balance

        def read(self) -> int:
            return self.balance

    @hub.orchestrator
    async def transfer(ctx: OrchestrationContext, source: str, target: str, amount: int) -> bool:
        first, second = EntityId("account", source), EntityId("account", target)
        async with ctx.lock(first, second):
            if await ctx.call_entity(Account.read, source) < amount:
                return False
            await asyncio.gather(
                ctx.call_entity(Account.add, source, -amount), ctx.call_entity(Account.add, target, amount)
            )
            return True

    return hub, Account, transfer


async def balance(hub: TaskHub, account: Any, key: str) -> int:
    result: int = await asyncio.wait_for(hub.call_entity(account.read, key), DEADLINE)
    return result


async def test_transfers_keep_the_sum(hub_url: str) -> None:
    hub, account, transfer = bank(hub_url)
    keys = ["a", "b", "c", "d"]
    rng = random.Random(7)
    async with hub.worker():
        handles = []
        for _ in range(25):
            source, target = rng.sample(keys, 2)
            handles.append(await hub.start(transfer, source, target, rng.randrange(1, 80)))
        results = [await handle.result(DEADLINE) for handle in handles]
        balances = [await balance(hub, account, key) for key in keys]
    assert True in results
    assert sum(balances) == 400
    assert min(balances) >= 0


async def test_others_wait_until_the_section_is_left(hub_url: str) -> None:
    hub, account, _ = bank(hub_url)

    @hub.orchestrator
    async def holder(ctx: OrchestrationContext) -> list[int]:
        async with ctx.lock(B, A, A):
            before = await ctx.call_entity(account.read, "a")
            ctx.set_custom_status("holding")
            await ctx.wait_for_external_event("go")
            return [before, await ctx.call_entity(account.read, "a"), await ctx.call_entity(account.read, "b")]

    @hub.orchestrator
    async def other(ctx: OrchestrationContext) -> Any:
        return await ctx.call_entity(account.add, "a", 1)

    async with hub.worker():
        handle = await hub.start(holder)
        await until(handle.status, lambda s: s.custom_status == "holding")
        await hub.signal_entity(account.add, "a", 10)
        waiting = await hub.start(other)
        await asyncio.sleep(0.1)
        assert (await waiting.status()).output is None
    async with hub.worker():  # the lock outlives its worker
        await handle.raise_event("go")
        assert await handle.result(DEADLINE) == [100, 100, 100]
        assert await waiting.result(DEADLINE) == 111
        requested = [e for e in await handle.history() if isinstance(e, ev.EntityLockRequested)]
        assert [event.lock_set for event in requested] == [("@account@a", "@account@b")]


@pytest.mark.parametrize(
    "leave", ["return", "raise", "cancel", "continue", "terminate", "terminate while waiting", "cancel while waiting"]
)
async def test_locks_are_released_on_every_way_out(hub_url: str, leave: str) -> None:
    hub, account, _ = bank(hub_url)

    @hub.orchestrator
    async def blocker(ctx: OrchestrationContext) -> None:
        async with ctx.lock(B):
            ctx.set_custom_status("blocking")
            await ctx.wait_for_external_event("go")

    @hub.orchestrator
    async def leaver(ctx: OrchestrationContext, again: bool = False) -> str:
        if again:
            return "again"
        ctx.set_custom_status("waiting")
        async with ctx.lock(A, B, C):
            ctx.set_custom_status("holding")
            await ctx.wait_for_external_event("go")
            if leave == "raise":
                raise ValueError("out")
            if leave == "continue":
                ctx.continue_as_new(True)
            return "left"

    async with hub.worker():
        blocked = leave.endswith("while waiting")
        block = await hub.start(blocker)
        await until(block.status, lambda s: s.custom_status == "blocking")
        if not blocked:
            await block.raise_event("go")
        handle = await hub.start(leaver)
        await until(handle.status, lambda s: s.custom_status == ("waiting" if blocked else "holding"))
        if "terminate" in leave:
            await handle.terminate()
        elif "cancel" in leave:
            await handle.cancel()
        else:
            await handle.raise_event("go")
        await until(handle.status, lambda s: s.runtime_status.is_terminal)
        if blocked:
            await block.raise_event("go")
        assert [await balance(hub, account, key) for key in "abc"] == [100, 100, 100]


async def violation(attempt: Callable[[], Any]) -> str:
    """The rule that an attempt breaks."""
    try:
        result = attempt()
        if result is not None:
            await result
    except LockingRulesViolationError as error:
        return str(error)
    return "allowed"


async def test_every_rule_has_its_error(hub_url: str) -> None:
    hub, account, _ = bank(hub_url)

    @hub.activity
    async def nothing() -> str:
        return "fine"

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> None:
        return None

    @hub.orchestrator
    async def rules(ctx: OrchestrationContext) -> list[str]:
        broken: list[str] = []
        entering = asyncio.ensure_future(ctx.lock(A, B).__aenter__())
        await asyncio.sleep(0)
        broken.append(await violation(lambda: ctx.call_entity(account.read, "a")))
        section = await entering
        assert await nothing() == "fine"
        broken.append(await violation(lambda: child()))
        broken.append(await violation(lambda: ctx.lock(C).__aenter__()))
        broken.append(await violation(lambda: ctx.signal_entity(account.add, "a", 1)))
        broken.append(await violation(lambda: ctx.call_entity(account.read, "c")))
        first = ctx.call_entity(account.read, "a")
        broken.append(await violation(lambda: ctx.call_entity(account.read, "a")))
        await first
        ctx.signal_entity(account.add, "c", 1)
        await section.__aexit__(None, None, None)
        await child()
        return broken

    async with hub.worker():
        handle = await hub.start(rules)
        assert await handle.result(DEADLINE) == [
            "Must not call an entity (@account@a) before the locks of the critical section are granted.",
            "While holding locks, cannot call suborchestrators.",
            "Must not enter another critical section from within a critical section.",
            "Must not signal a locked entity from a critical section. (@account@a is locked here)",
            "Must not call an entity from a critical section if it is not one of the locked entities. "
            "(@account@c is not among @account@a, @account@b)",
            "Must not call an entity from a critical section while a prior call to the same entity is still pending. "
            "(@account@a)",
        ]


async def test_an_empty_lock_list_is_refused(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def empty(ctx: OrchestrationContext) -> None:
        async with ctx.lock():
            pass

    async with hub.worker():
        with pytest.raises(OrchestrationFailedError, match="one or more EntityId"):
            await (await hub.start(empty)).result(DEADLINE)


async def test_many_sections_over_the_same_entities_end(hub_url: str) -> None:
    """Taken in one global order: no deadlock, however the code lists them."""
    hub, account, _ = bank(hub_url)

    @hub.orchestrator
    async def rounds(ctx: OrchestrationContext, order: list[str]) -> None:
        for _ in range(3):
            async with ctx.lock(*[EntityId("account", key) for key in order]):
                for key in order:
                    await ctx.call_entity(account.add, key, 1)

    async with hub.worker():
        orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["a", "c"], ["c", "a"]]
        handles = [await hub.start(rounds, order) for order in orders]
        for handle in handles:
            await handle.result(DEADLINE)
        assert [await balance(hub, account, key) for key in "abc"] == [115, 109, 115]
