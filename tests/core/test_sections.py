"""Critical sections, driven by hand: the rules of calls within them."""

from __future__ import annotations

from typing import Any

from durable import EntityId, LockingRulesViolationError, OrchestrationContext, Registry
from durable.core.events import EntityLockGranted, EntityOperationCompleted

from .driving import Driver, replayed

BOX = EntityId("box", "a")


def test_an_answer_to_an_earlier_call_does_not_end_the_one_that_is_pending() -> None:
    registry = Registry()

    @registry.orchestrator
    async def calls(ctx: OrchestrationContext) -> Any:
        earlier = ctx.call_entity(BOX, "take")
        async with ctx.lock(BOX):
            pending = ctx.call_entity(BOX, "take")
            await earlier
            try:
                await ctx.call_entity(BOX, "take")
            except LockingRulesViolationError as error:
                await pending
                await ctx.call_entity(BOX, "take")
                return "prior call to the same entity is still pending" in str(error)

    driver = Driver(registry, "calls")
    driver.start()
    driver.turn(EntityLockGranted(driver.now, 2, (str(BOX),)))
    driver.turn(EntityOperationCompleted(driver.now, 1, "null"))
    driver.turn(EntityOperationCompleted(driver.now, 3, "null"))
    driver.turn(EntityOperationCompleted(driver.now, 4, "null"))
    assert driver.state.output == "true"
    replayed(registry, driver.history).discard()
