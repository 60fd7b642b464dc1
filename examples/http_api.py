"""Asynchronous HTTP API: a request starts an orchestration and is answered at once; the client polls for the result.

python examples/http_api.py    needs httpx: pip install "durable-orchestrations[http]"

    POST /reports    202 Accepted, Location: /reports/ID, Retry-After: 1
    GET /reports/ID  202 and the progress while it runs, then 200 and the result (500 when it failed)

What survives a crash: all that was answered with 202. The location names an instance in the store, so the client may
go on polling when the server is up again, or ask another server on the same store.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx

from durable import InstanceNotFoundError, OrchestrationContext, PayloadError, RuntimeStatus, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///http_api.db"))

Answer = tuple[HTTPStatus, Mapping[str, str], Any]
"""Status, headers and JSON body of a response."""


@hub.activity
async def write_chapter(topic: str, number: int) -> str:
    await asyncio.sleep(0.5)
    return f"chapter {number} on {topic}"


@hub.orchestrator
async def write_report(ctx: OrchestrationContext, topic: str, chapters: int) -> list[str]:
    written: list[str] = []
    for number in range(1, chapters + 1):
        ctx.set_custom_status(f"writing chapter {number} of {chapters}")
        written.append(await write_chapter(topic, number))
    return written


# --- the server: what each request means, and just enough HTTP to try it -----------------


async def answer(method: str, path: str, body: bytes) -> Answer:
    try:
        match method, path.strip("/").split("/"):
            case "POST", ["reports"]:
                order = json.loads(body)
                handle = await hub.start(write_report, order["topic"], order["chapters"])  # durable when this returns
                return HTTPStatus.ACCEPTED, {"Location": f"/reports/{handle.instance_id}", "Retry-After": "1"}, None
            case "GET", ["reports", instance_id]:
                return await report(instance_id)
    except InstanceNotFoundError as error:
        return HTTPStatus.NOT_FOUND, {}, str(error)
    except (ValueError, LookupError, TypeError, PayloadError) as error:
        return HTTPStatus.BAD_REQUEST, {}, f"{type(error).__name__}: {error}"
    return HTTPStatus.NOT_FOUND, {}, f"there is nothing at {method} {path}"


async def report(instance_id: str) -> Answer:
    status = await hub.get(instance_id).status()
    if status.runtime_status is RuntimeStatus.COMPLETED:
        return HTTPStatus.OK, {}, status.output
    if status.runtime_status.is_terminal:
        return HTTPStatus.INTERNAL_SERVER_ERROR, {}, status.failure and status.failure.message
    return HTTPStatus.ACCEPTED, {"Location": f"/reports/{instance_id}", "Retry-After": "1"}, status.custom_status


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    status, extra, content = await answer(method, path, body)
    sent = json.dumps(content).encode()
    fields = {**extra, "Content-Type": "application/json", "Content-Length": len(sent), "Connection": "close"}
    head = [f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    writer.write("\r\n".join(head).encode("latin-1") + sent)
    await writer.drain()
    writer.close()


# --- the client: knows nothing of orchestrations, only HTTP ------------------------------


async def order_report(base_url: str) -> Any:
    async with httpx.AsyncClient(base_url=base_url) as client:
        response = await client.post("/reports", json={"topic": "tea", "chapters": 3})
        while response.status_code == HTTPStatus.ACCEPTED:
            location, wait = response.headers["location"], response.headers["retry-after"]
            print(
                f"{response.status_code} {response.json() or 'accepted'}; ask {location} again in {wait} s", flush=True
            )
            await asyncio.sleep(float(wait))
            response = await client.get(location)
        print(response.status_code, response.text)
        return response.raise_for_status().json()


async def main() -> bool:
    async with hub.worker(), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        result = await asyncio.wait_for(order_report(f"http://{host}:{port}"), timeout=30)
    return bool(result == ["chapter 1 on tea", "chapter 2 on tea", "chapter 3 on tea"])


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
