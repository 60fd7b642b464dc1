"""What the chaos and simulation tests run besides: sagas, retries, activity queues, batches of children, generations.

Rule of this file: orchestrators and entities only, and the mix of all jobs. What they must come to is in
``pattern_judge.py``, which shares no code with them but the arithmetic of one step.
"""

from __future__ import annotations

import asyncio
from dataclasses import field
from datetime import timedelta
from typing import Any

from durable import ActivityContext, ActivityFailedError, OrchestrationContext, Registry, RetryPolicy, Saga
from tests.chaos import messaging_workload
from tests.chaos.messaging_workload import ACCOUNTS, messaging_job, transfer
from tests.chaos.workload import Job, advance, effect, job, refuse, step

registry = Registry()
registry.include(messaging_workload.registry)
registry.queue("few", concurrency=3)
registry.queue("by key", per_key=1)

SHOPS = ("hotel", "flight")
_SOON = timedelta(seconds=0.05)


@registry.entity
class Stock:
    """What each holder reserved (more than nothing) and gave back (less), in order."""

    moves: dict[str, list[int]] = field(default_factory=dict)

    def move(self, holder: str, amount: int) -> None:
        self.moves.setdefault(holder, []).append(amount)


@registry.activity(retry=RetryPolicy(max_attempts=3, first_interval=_SOON))
async def flaky(value: int) -> int:
    """Its third attempt is the first that works."""
    effect()
    if ActivityContext.current().attempt < 3:
        raise OSError("not yet")
    return advance(value)


@registry.activity(queue="few")
async def queued_step(value: int) -> int:
    await asyncio.sleep(0.02)
    effect()
    return advance(value)


@registry.orchestrator
async def trip(ctx: OrchestrationContext, value: int, works: bool) -> int | str:
    """Reserve in both shops. The undo comes first: who is cancelled while he reserves may have done it."""
    me = ctx.instance_id
    try:
        async with Saga() as saga:
            for shop in SHOPS:
                saga.add(_give_back, ctx, shop, value)
                await ctx.call_entity(Stock.move, shop, me, value)
                value = await step(value, 0.2)
            if not works:
                await refuse(value)
    except ActivityFailedError as error:
        return error.details.message
    return value


async def _give_back(ctx: OrchestrationContext, shop: str, amount: int) -> None:
    await ctx.call_entity(Stock.move, shop, ctx.instance_id, -amount)


@registry.orchestrator
async def retrying(ctx: OrchestrationContext, value: int) -> dict[str, Any]:
    """A call that works in the end, and one that does not."""
    result = await flaky(value)
    try:
        await refuse.options(retry=RetryPolicy(max_attempts=2, first_interval=_SOON))(result)
    except ActivityFailedError as error:
        refusal = error.details.message
    return {"value": result, "refusal": refusal}


@registry.orchestrator
async def queued(ctx: OrchestrationContext, width: int) -> list[int]:
    """Calls through two queues."""
    numbers = range(width)
    plain = [queued_step(number) for number in numbers]
    keyed = [queued_step.options(queue="by key", key=f"k{n % 2}", priority=n)(n) for n in numbers]
    return await asyncio.gather(*plain, *keyed)


@registry.orchestrator
async def generations(ctx: OrchestrationContext, value: int, more: int) -> int:
    """One step an execution."""
    value = await step(value)
    await asyncio.sleep(0.02)
    if more:
        ctx.continue_as_new(value, more - 1)
    return value


@registry.orchestrator
async def batch(ctx: OrchestrationContext, transfers: list[tuple[str, str, int]]) -> list[list[int]]:
    """Transfers as children, with ids that the judge knows."""
    children = [
        transfer.options(instance_id=f"{ctx.instance_id}-{number}")(*one) for number, one in enumerate(transfers)
    ]
    return await asyncio.gather(*children)


def pattern_job(number: int) -> Job:
    """The job of that number: the kinds take turns."""
    match number % 6:
        case 0:
            return Job("trip", (1 + number, True))
        case 1:
            return Job("retrying", (number,))
        case 2:
            return Job("queued", (2 + number % 4,))
        case 3:
            return Job("generations", (number, 2 + number % 3))
        case 4:
            return Job("trip", (1 + number, False))
        case _:
            pairs = [(ACCOUNTS[(number + n) % 4], ACCOUNTS[(number + n + 1 + n % 3) % 4], 3 + n) for n in range(3)]
            return Job("batch", (pairs,))


def any_job(number: int) -> Job:
    """The job of that number: plain ones, those that talk to others, and the patterns of this file take turns."""
    third, kind = divmod(number, 3)
    return (job(third, threads=True), messaging_job(third), pattern_job(third))[kind]
