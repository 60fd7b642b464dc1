"""Critical section: transfers between accounts, many at once, and no money is ever made or lost.

python examples/transfer.py

What survives a crash: the locks, and which half of a transfer is done. Whoever takes the orchestration over still holds
both accounts, and goes on where the dead worker stopped; until then nobody else gets at them.
"""

import asyncio
import os
import random
import sys

from durable import EntityId, OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///transfer.db"))

OWNERS = ("ann", "bob", "cleo", "dan")
START = 100


@hub.entity
class Account:
    balance: int = START

    def add(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def read(self) -> int:
        return self.balance


@hub.orchestrator
async def transfer(ctx: OrchestrationContext, source: str, target: str, amount: int) -> bool:
    """Move money, unless the source has too little. Both accounts are locked in one global order: no deadlock."""
    async with ctx.lock(EntityId("account", source), EntityId("account", target)):
        if await ctx.call_entity(Account.read, source) < amount:
            return False
        await ctx.call_entity(Account.add, source, -amount)
        await ctx.call_entity(Account.add, target, amount)
        return True


@hub.orchestrator
async def balances(ctx: OrchestrationContext, owners: list[str]) -> list[int]:
    """All balances at one moment: no transfer is half done while all accounts are locked."""
    async with ctx.lock(*[EntityId("account", owner) for owner in owners]):
        return await asyncio.gather(*[ctx.call_entity(Account.read, owner) for owner in owners])


async def main() -> int:
    dice = random.Random(1)
    async with hub.worker():
        handles = []
        for _ in range(30):
            source, target = dice.sample(OWNERS, 2)
            handles.append(await hub.start(transfer, source, target, dice.randrange(10, 90)))
        during = await (await hub.start(balances, list(OWNERS))).result(60)
        done = [await handle.result(60) for handle in handles]
        after = await (await hub.start(balances, list(OWNERS))).result(60)
    print(f"  {sum(done)} of {len(done)} transfers were made, the others had too little to take from", flush=True)
    for owner, balance in zip(OWNERS, after, strict=True):
        print(f"  {owner}: {balance}", flush=True)
    whole = START * len(OWNERS)
    print(f"The sum is {sum(after)}, and was {sum(during)} meanwhile.", flush=True)
    return 0 if sum(after) == sum(during) == whole and min(after) >= 0 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
