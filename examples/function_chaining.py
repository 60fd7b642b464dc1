"""Function chaining: each activity works on what the one before it returned.

python examples/function_chaining.py

What survives a crash: every step that has returned. Its result is in history, so a worker that takes over begins
with the first step that has none. Only a step that was running when the process died runs again.
"""

import asyncio
import os
import sys
from dataclasses import dataclass

from durable import OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///function_chaining.db"))


@dataclass
class Line:
    article: str
    count: int
    cents: int


@dataclass
class Invoice:
    order: int
    cents: int


@hub.activity
async def load_order(number: int) -> list[Line]:
    print(f"1. load order {number}")
    return [Line("tea", 2, 450), Line("cup", 1, 800)]


@hub.activity
async def make_invoice(number: int, lines: list[Line]) -> Invoice:
    print(f"2. add up {len(lines)} lines")
    return Invoice(number, sum(line.count * line.cents for line in lines))


@hub.activity
async def send_invoice(invoice: Invoice) -> str:
    print(f"3. send the invoice over {invoice.cents / 100:.2f}")
    return f"invoice-{invoice.order}"


@hub.orchestrator
async def bill(ctx: OrchestrationContext, number: int) -> str:
    lines = await load_order(number)  # each await is a checkpoint
    invoice = await make_invoice(number, lines)
    return await send_invoice(invoice)


async def main() -> bool:
    async with hub.worker():
        handle = await hub.start(bill, 7)
        result = await handle.result(timeout=30)
        print(f"Result: {result}. Its history:")
        for event in await handle.history():
            what = getattr(event, "name", None) or getattr(event, "result", None) or ""
            print(f"  {type(event).__name__:22}{what}".rstrip())
    return result == "invoice-7"


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
