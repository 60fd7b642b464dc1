"""Two services, the one that is asked: a warehouse whose orchestrations others start over HTTP.

    pip install "durable-orchestrations[http]"
    WAREHOUSE_TOKEN=secret uvicorn --app-dir examples/two_services --port 8002 warehouse:app

It has no endpoint of its own: the hub's HTTP API is all that the shop (shop.py, beside this file) needs. What survives
a crash: an order that was answered with 202 is packed, and the links in that answer stay good.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from durable import OrchestrationContext, TaskHub
from durable.http import bearer

hub = TaskHub(os.environ.get("WAREHOUSE_STORE", "sqlite:///warehouse.db"))

BELT_SECONDS = float(os.environ.get("WAREHOUSE_BELT_SECONDS", "3"))


@hub.activity
async def fetch(item: str) -> str:
    return f"{item} from shelf {len(item)}"


@hub.activity
async def wrap(found: str) -> str:
    return f"a parcel with {found}"


@hub.orchestrator
async def pack(ctx: OrchestrationContext, item: str) -> str:
    found = await fetch(item)
    ctx.set_custom_status("on the belt")
    await asyncio.sleep(BELT_SECONDS)  # a durable timer: it goes on while the process is down
    return await wrap(found)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with hub.worker():
        yield


# Others reach it, so it has an authorizer. Clients are told to look again after a second.
api = hub.http_app(authorize=bearer(os.environ["WAREHOUSE_TOKEN"]), retry_after=1)
app = Starlette(routes=[Mount("/durable", api)], lifespan=lifespan)
