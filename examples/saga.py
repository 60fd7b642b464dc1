"""Saga: book a trip of several parts; when one of them fails, undo the others, the last one first.

python examples/saga.py

What survives a crash: which parts are booked, and which are undone already. A worker that takes over goes on booking,
or goes on undoing, where the dead one stopped. Undos are activities, so they too may run twice: make them repeatable.
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from durable import ActivityFailedError, InstanceHandle, OrchestrationContext, Saga, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///saga.db"))


@dataclass
class Trip:
    city: str
    cents: int
    budget: int


@hub.activity
async def book(part: str, trip: Trip) -> str:
    print(f"  book the {part} in {trip.city}", flush=True)
    return f"{part}-in-{trip.city}"


@hub.activity
async def cancel(booking: str) -> None:
    print(f"  cancel {booking}", flush=True)


@hub.activity
async def pay(trip: Trip) -> str:
    if trip.cents > trip.budget:
        raise ValueError(f"{trip.cents / 100:.2f} is more than the card allows")
    print(f"  pay {trip.cents / 100:.2f}", flush=True)
    return "paid"


@hub.orchestrator
async def book_trip(ctx: OrchestrationContext, trip: Trip) -> str:
    try:
        async with Saga() as saga:
            for part in ("hotel", "car", "flight"):
                booking = await book(part, trip)
                saga.add(cancel, booking)
            return await pay(trip)  # should it fail, what was added is undone, and its error goes on
    except ActivityFailedError as error:
        return f"not booked: {error.details.message}"


async def cancelled(handle: InstanceHandle[str]) -> list[str]:
    """The bookings that were cancelled, in that order, as history tells."""
    events: list[Any] = list(await handle.history())
    return [json.loads(event.input)[0] for event in events if getattr(event, "name", None) == "cancel"]


async def main() -> bool:
    async with hub.worker():
        print("A trip that can be paid:")
        good = await hub.start(book_trip, Trip("Lisbon", 90_000, budget=100_000))
        print(f"  Result: {await good.result(timeout=30)}")
        print("One that cannot:")
        bad = await hub.start(book_trip, Trip("Tokyo", 290_000, budget=100_000))
        print(f"  Result: {await bad.result(timeout=30)}")
        kept, undone = await cancelled(good), await cancelled(bad)
    return not kept and undone == ["flight-in-Tokyo", "car-in-Tokyo", "hotel-in-Tokyo"]


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
