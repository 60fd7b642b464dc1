"""An order service: FastAPI outside, a durable orchestration inside. Large orders wait for an approval.

DURABLE_URL=sqlite:///orders.db uvicorn examples.order_service:app --workers 2

Every process serves HTTP and runs orders; they share the work. Kill any of them, or all, at any moment: an order goes
on from where it was, in another process or after the restart. Nobody is charged twice, because the payment service
gets the same idempotency key however often it is asked.
"""

import asyncio
from datetime import timedelta
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from durable import (
    ActivityContext,
    InstanceExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
    OrchestrationContext,
    TaskHub,
)

NEEDS_APPROVAL = 100_000  # cents
PATIENCE = timedelta(days=7)

hub = TaskHub()  # where it is: DURABLE_URL
app = FastAPI(title="Orders", lifespan=hub.lifespan)


class Order(BaseModel):
    number: int
    items: list[str]
    cents: int


class Approval(BaseModel):
    approved: bool
    by: str


@hub.activity
async def reserve(item: str) -> str:
    return f"{item} reserved"


@hub.activity
async def release(item: str) -> str:
    return f"{item} released"


@hub.activity
async def charge(order: Order) -> str:
    key = ActivityContext.current().idempotency_key  # for the payment service: the same at each attempt
    await asyncio.sleep(0.5)  # it takes its time
    return f"receipt {key.rpartition('/')[2]} for {order.cents / 100:.2f}"


@hub.orchestrator
async def fulfil(ctx: OrchestrationContext, order: Order) -> str:
    ctx.set_custom_status("reserving")
    await asyncio.gather(*(reserve(item) for item in order.items))
    if order.cents >= NEEDS_APPROVAL and not await approved(ctx):
        await asyncio.gather(*(release(item) for item in order.items))
        return "rejected"
    ctx.set_custom_status("charging")
    receipt = await charge(order)
    ctx.set_custom_status("done")
    return receipt


async def approved(ctx: OrchestrationContext) -> bool:
    """What somebody decides; silence is a no."""
    ctx.set_custom_status("waiting for approval")
    try:
        answer = await ctx.wait_for_external_event("approval", Approval, timeout=PATIENCE)
    except TimeoutError:
        return False
    return answer.approved


@app.post("/orders", status_code=202)
async def place(order: Order) -> dict[str, str]:
    """Durable when this answers. The number is the key: an order that is sent twice is one order."""
    try:
        handle = await hub.start(fulfil, order, instance_id=f"order-{order.number}")
    except InstanceExistsError as error:
        raise HTTPException(409, str(error)) from error
    return {"id": handle.instance_id, "status": f"/orders/{order.number}"}


@app.get("/orders/{number}")
async def show(number: int) -> dict[str, Any]:
    try:
        status = await hub.get(f"order-{number}").status()
    except InstanceNotFoundError as error:
        raise HTTPException(404, str(error)) from error
    return {"status": status.runtime_status, "progress": status.custom_status, "result": status.output}


@app.post("/orders/{number}/approval", status_code=202)
async def approve(number: int, approval: Approval) -> None:
    try:
        await hub.get(f"order-{number}").raise_event("approval", approval)
    except InstanceNotFoundError as error:
        raise HTTPException(404, str(error)) from error
    except InstanceFinishedError as error:
        raise HTTPException(409, str(error)) from error


@app.get("/health")
async def health() -> dict[str, Any]:
    found = await hub.health()
    if found.status != "ok":
        raise HTTPException(503, found.problem)
    return {"worker": found.worker_id, "partitions": found.partitions_owned}
