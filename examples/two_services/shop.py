"""Two services, the one that asks: a shop whose orchestration calls an orchestration of the warehouse over HTTP.

    pip install "durable-orchestrations[http]"
    WAREHOUSE_TOKEN=secret uvicorn --app-dir examples/two_services --port 8001 shop:app
    curl -i -X POST http://127.0.0.1:8001/orders/7 -H 'Content-Type: application/json' -d '"tea"'

The answer is 202 with a Location to poll. The shop itself polls the warehouse in the same way: ``ctx.call_http``
follows a 202 by durable timers, so nothing is held open, and both services may be restarted on the way. What survives a
crash: everything that was answered.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from durable import HttpCaller, OrchestrationContext, RetryPolicy, TaskHub
from durable.http import create_check_status_response

WAREHOUSE = os.environ.get("WAREHOUSE_URL", "http://127.0.0.1:8002/durable/runtime/webhooks/durabletask")


async def warehouse_token(resource: str | None = None) -> str:
    return os.environ["WAREHOUSE_TOKEN"]


hub = TaskHub(
    os.environ.get("SHOP_STORE", "sqlite:///shop.db"),
    http=HttpCaller({"warehouse": warehouse_token}, allow=lambda url: url.startswith(WAREHOUSE)),
)

WHILE_IT_IS_DOWN = RetryPolicy(max_attempts=60, first_interval=timedelta(seconds=0.5), backoff=1.0)
"""For each request that gets no response at all, polls included: half a minute for the warehouse to come back."""


@hub.orchestrator
async def place_order(ctx: OrchestrationContext, item: str) -> str:
    parcel = f"order-{ctx.instance_id}"  # an id of our choosing: asked for twice, it is packed once
    response = await ctx.call_http(
        "POST",
        f"{WAREHOUSE}/orchestrators/pack/{parcel}",
        json=item,
        token_source="warehouse",
        retry=WHILE_IT_IS_DOWN,
    )
    if response.status_code == 409:  # the answer to the first request was lost, the parcel is not
        url = f"{WAREHOUSE}/instances/{parcel}"
        response = await ctx.call_http("GET", url, token_source="warehouse", retry=WHILE_IT_IS_DOWN)
    packed = response.json()
    if packed.get("runtimeStatus") != "Completed":
        raise RuntimeError(f"the warehouse says {response.status_code}: {response.content}")
    return f"shipped: {packed['output']}"


async def order(request: Request) -> Response:
    handle = await hub.start(place_order, await request.json(), instance_id=request.path_params["number"])
    return create_check_status_response(request, handle.instance_id)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with hub.worker():
        yield


app = Starlette(
    routes=[
        Route("/orders/{number}", order, methods=["POST"]),
        Mount("/durable", hub.http_app(retry_after=1)),  # without an authorizer: for clients on this machine only
    ],
    lifespan=lifespan,
)
