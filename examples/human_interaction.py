"""Human interaction: ask for an approval, wait for the answer, and escalate when none comes in time.

python examples/human_interaction.py

What survives a crash: the question that was asked, the time left to answer it, and every answer, also one given while
no worker runs. A person may take a month: what waits is a record in the store and a durable timer.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

from durable import InstanceHandle, OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///human_interaction.db"))


@dataclass
class Expense:
    employee: str
    purpose: str
    cents: int


@dataclass
class Answer:
    approved: bool
    by: str


@hub.activity
async def ask(person: str, expense: Expense, instance_id: str) -> None:
    """Here a mail would be sent, with a link that raises the event ``answer`` to this instance."""
    print(
        f"  to the {person}: may {expense.employee} spend {expense.cents / 100:.2f} on {expense.purpose}?", flush=True
    )


@hub.orchestrator
async def approve(ctx: OrchestrationContext, expense: Expense, patience: timedelta) -> str:
    await ask("manager", expense, ctx.instance_id)
    ctx.set_custom_status("waiting for the manager")
    try:
        answer = await ctx.wait_for_external_event("answer", Answer, timeout=patience)
    except TimeoutError:
        await ask("director", expense, ctx.instance_id)
        ctx.set_custom_status("waiting for the director")
        answer = await ctx.wait_for_external_event("answer", Answer)  # whoever answers first now
    return f"{'approved' if answer.approved else 'rejected'} by the {answer.by}"


async def until_waiting_for(person: str, handle: InstanceHandle[str]) -> None:
    async with asyncio.timeout(30):
        while True:
            if (await handle.status()).custom_status == f"waiting for the {person}":
                return
            await asyncio.sleep(0.05)


async def main() -> bool:
    async with hub.worker():
        print("The manager answers:")
        first = await hub.start(approve, Expense("Ann", "a keyboard", 8900), timedelta(days=3))
        await until_waiting_for("manager", first)
        await first.raise_event("answer", Answer(approved=True, by="manager"))
        print(f"  {await first.result(timeout=30)}")

        print("The manager is away:")
        second = await hub.start(approve, Expense("Bob", "a golden keyboard", 890000), timedelta(seconds=1))
        await until_waiting_for("director", second)
        await second.raise_event("answer", Answer(approved=False, by="director"))
        print(f"  {await second.result(timeout=30)}")
        return (await first.result(), await second.result()) == ("approved by the manager", "rejected by the director")


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
