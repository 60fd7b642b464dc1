"""Transactions: an order and the orchestration that fulfils it are there together, and the stock is taken exactly once.

DURABLE_URL="mongodb://localhost:27017/shop?replicaSet=rs0" python examples/transactional_order.py

What survives a crash: all or nothing of each transaction. An order without its orchestration, an orchestration without
its order, or a cup that is taken from the stock twice cannot be.
Needs MongoDB, as a replica set; other stores have no transactions.
"""

import asyncio
import os
import sys
from typing import Any
from uuid import uuid4

from motor.motor_asyncio import AsyncIOMotorClient

from durable import ActivityContext, NonRetryableError, OrchestrationContext, TaskHub

URL = os.environ.get("DURABLE_URL", "mongodb://localhost:27017/shop?replicaSet=rs0")
hub = TaskHub(URL)


@hub.activity(transactional=True)
async def reserve(item: str, count: int) -> int:
    """Take from the stock; what is left. The writes and the completion of this call are one transaction."""
    session = ActivityContext.current().session
    stock = session.client.get_default_database().stock
    enough = {"_id": item, "left": {"$gte": count}}
    if (await stock.update_one(enough, {"$inc": {"left": -count}}, session=session)).modified_count == 0:
        raise NonRetryableError(f"there are not {count} of {item}")
    return int((await stock.find_one({"_id": item}, session=session))["left"])


@hub.orchestrator
async def fulfil(ctx: OrchestrationContext, item: str, count: int) -> str:
    return f"{count} {item} reserved, {await reserve(item, count)} left"


async def place_order(client: Any, item: str, count: int, *, change_of_mind: bool = False) -> str:
    """Store an order and start its orchestration, or neither."""
    order_id = uuid4().hex

    async def work(session: Any) -> None:
        order = {"_id": order_id, "item": item, "count": count}
        await client.get_default_database().orders.insert_one(order, session=session)
        await hub.start(fulfil, item, count, instance_id=order_id, session=session)
        if change_of_mind:
            raise LookupError("the customer has left")

    async with await client.start_session() as session:
        await session.with_transaction(work)
    return order_id


async def main() -> int:
    client: Any = AsyncIOMotorClient(URL)
    shop = client.get_default_database()
    await shop.stock.replace_one({"_id": "cup"}, {"left": 10}, upsert=True)
    async with hub.worker():
        order_ids = [await place_order(client, "cup", count) for count in (2, 3)]
        try:
            await place_order(client, "cup", 4, change_of_mind=True)
        except LookupError as error:
            print(f"  no order: {error}", flush=True)
        for order_id in order_ids:
            print(f"  {await hub.get(order_id).result(30)}", flush=True)
        started = {status.instance_id async for status in hub.query(name="fulfil")}
    stored = {order["_id"] async for order in shop.orders.find()}
    left = (await shop.stock.find_one({"_id": "cup"}))["left"]
    client.close()
    print(f"{len(order_ids)} orders, and each has its orchestration; {left} cups are left.", flush=True)
    return 0 if stored == started and set(order_ids) <= stored and left == 5 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
