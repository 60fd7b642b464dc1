"""Two services in processes of their own: an orchestration of one calls an orchestration of the other over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from durable.http.calls import BASE_PATH
from tests.e2e.waiting import until

SERVICES = Path(__file__).resolve().parent.parent.parent / "examples" / "two_services"
TOKEN = "for-the-test"
DEADLINE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def service(name: str, port: int, directory: Path, warehouse: str) -> AsyncIterator[Process]:
    """A service under uvicorn, once it answers; killed at the end of the block."""
    environment = {
        **os.environ,
        "NO_PROXY": "*",  # loopback is asked directly
        "WAREHOUSE_TOKEN": TOKEN,
        "WAREHOUSE_URL": warehouse,
        "WAREHOUSE_STORE": "sqlite:///warehouse.db",
        "SHOP_STORE": "sqlite:///shop.db",
    }
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "uvicorn",
        "--app-dir",
        str(SERVICES),
        "--port",
        str(port),
        f"{name}:app",
    ]
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, env=environment, stdin=DEVNULL, stdout=output, stderr=STDOUT
        )
    try:
        await until(lambda: answers(port), lambda alive: alive or process.returncode is not None, DEADLINE)
        assert process.returncode is None, log.read_text("utf-8")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answers(port: int) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            response = await client.get(f"http://127.0.0.1:{port}/durable/healthz")
        except httpx.TransportError:
            return False
        return response.status_code == 200


async def follow(client: httpx.AsyncClient, response: httpx.Response) -> Any:
    """What a 202 leads to, polled as its headers say."""
    async with asyncio.timeout(DEADLINE):
        while response.status_code == 202:
            await asyncio.sleep(float(response.headers["retry-after"]))
            response = await client.get(response.headers["location"])
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_orchestration_calls_one_of_another_service_that_is_killed_on_the_way(tmp_path: Path) -> None:
    shop_port, port = free_port(), free_port()
    warehouse = f"http://127.0.0.1:{port}/durable{BASE_PATH}"
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        service("shop", shop_port, tmp_path, warehouse),
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        async with service("warehouse", port, tmp_path, warehouse) as process:
            started = await client.post(f"http://127.0.0.1:{shop_port}/orders/7", json="tea")
            assert started.status_code == 202

            async def parcel() -> Any:
                return (await client.get(f"{warehouse}/instances/order-7", headers=headers)).json()

            await until(parcel, lambda seen: seen.get("customStatus") == "on the belt")
            assert (await client.get(f"{warehouse}/instances/order-7")).status_code == 401
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with service("warehouse", port, tmp_path, warehouse):
            status = await follow(client, started)
            assert status["output"] == "shipped: a parcel with tea from shelf 3"
            history = await client.get(f"{warehouse}/instances/order-7/history", headers=headers)
        done = [row["name"] for row in history.json() if row["eventType"] == "TaskScheduled"]
        assert done == ["fetch", "wrap"]  # once each
        assert (
            TOKEN not in (await client.get(f"http://127.0.0.1:{shop_port}/durable{BASE_PATH}/instances/7/history")).text
        )
