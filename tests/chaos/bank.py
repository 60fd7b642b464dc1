"""A bank whose workers are killed: accounts are entities, transfers critical sections, batches of transfers children.

python -m tests.chaos.bank URL runs a worker until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

from durable import EntityId, OrchestrationContext, Registry, TaskHub
from durable.settings import Settings

OWNERS = tuple("abcdef")
START = 1000
SETTINGS = Settings(partitions=8, lease_time=2.0, max_deliveries=10_000, cache_instances=20, drain_time=5.0)

registry = Registry()


@registry.entity
class Account:
    balance: int = START
    operations: int = 0

    def add(self, amount: int) -> int:
        self.balance += amount
        self.operations += 1
        return self.balance

    def read(self) -> int:
        return self.balance


@registry.activity
async def fee(amount: int) -> int:
    return amount // 10


@registry.orchestrator
async def transfer(ctx: OrchestrationContext, source: str, target: str, amount: int) -> int:
    """Move money and return how much; in between there is an activity, so that locks are held for a while."""
    async with ctx.lock(EntityId("account", source), EntityId("account", target)):
        if await ctx.call_entity(Account.read, source) < amount:
            return 0
        await ctx.call_entity(Account.add, source, -amount)
        kept = await fee(amount)
        await ctx.call_entity(Account.add, target, amount - kept)
    ctx.signal_entity(Account.add, "bank", kept)
    return amount


@registry.orchestrator
async def batch(ctx: OrchestrationContext, transfers: list[tuple[str, str, int]]) -> int:
    """Several transfers as children; the sum of what was moved."""
    return sum(await asyncio.gather(*[transfer(*one) for one in transfers]))


def make_hub(url: str) -> TaskHub:
    hub = TaskHub(url, settings=SETTINGS)
    hub.include(registry)
    return hub


async def work(url: str) -> None:
    async with make_hub(url).worker():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
