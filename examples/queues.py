"""Queues: few activities at once, one for each customer, the urgent ones first; and a start that waits for the last.

python examples/queues.py

What survives a crash: the calls wait in the store. A worker that takes over, or another one that serves the queue, goes
on with them, and the limits hold across all processes. The debounced start is in the store, too, with its time.
"""

import asyncio
import os
import sys
from collections import Counter
from datetime import timedelta

from durable import OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///queues.db"))
hub.queue("printer", concurrency=2, per_key=1, ageing=timedelta(seconds=30))

running: Counter[str] = Counter()
most: Counter[str] = Counter()


@hub.activity(queue="printer")
async def print_page(customer: str, page: int) -> str:
    for who in (customer, "all"):
        running[who] += 1
        most[who] = max(most[who], running[who])
    await asyncio.sleep(0.05)
    for who in (customer, "all"):
        running[who] -= 1
    print(f"  page {page} for {customer}", flush=True)
    return f"{customer}-{page}"


@hub.orchestrator
async def print_all(ctx: OrchestrationContext, customers: list[str], pages: int) -> int:
    """The first customer is in a hurry."""
    calls = [
        print_page.options(key=customer, priority=-place)(customer, page)
        for place, customer in enumerate(customers)
        for page in range(pages)
    ]
    return len(await asyncio.gather(*calls))


@hub.orchestrator
async def index(ctx: OrchestrationContext, words: list[str]) -> str:
    return f"the index has {words}"


async def main() -> bool:
    async with hub.worker():
        printed = await (await hub.start(print_all, ["Ann", "Bob", "Cleo"], 3)).result(timeout=30)
        one = max(count for who, count in most.items() if who != "all")
        print(f"At most {most['all']} at once, at most {one} for a customer.")

        words: list[str] = []
        for word in ("a", "b", "c"):
            words.append(word)
            handle = await hub.start(
                index,
                words,
                instance_id="index",
                debounce=timedelta(seconds=1),
                on_conflict="replace_finished",
            )
        indexed = await handle.result(timeout=30)
        print(f"  {indexed}")
    return (printed, most["all"], one) == (9, 2, 1) and indexed == "the index has ['a', 'b', 'c']"


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
