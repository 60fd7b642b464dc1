"""For who watches the process: is it alive, can it serve.

Rule of this file: these two need no credentials, so they say nothing but that.
"""

from __future__ import annotations

from starlette.responses import Response

from durable.http.calls import Call
from durable.http.responses import JsonResponse


async def alive(call: Call) -> Response:
    """200 while the process answers at all."""
    return JsonResponse({"status": "ok"})


async def ready(call: Call) -> Response:
    """200 when the store answers and the worker here, if there is one, is healthy; else 503."""
    health = await call.hub.health()
    return JsonResponse({"status": health.status}, 200 if health.status == "ok" else 503)
