"""The order service under uvicorn with two processes, over real HTTP, through a kill; and the README's commands."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from durable import RuntimeStatus, TaskHub
from durable.core.events import TaskCompleted
from tests.e2e.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.timeout(180)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def service(url: str, directory: Path, port: int) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """Two processes of the service, a client for them, and the id of the group that they are; killed at the end."""
    command = [sys.executable, "-m", "uvicorn", "examples.order_service:app", "--workers", "2", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={**os.environ, "DURABLE_URL": url, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            await until(lambda: is_up(client), bool, 60)
            yield client, process.pid
    finally:
        with suppress(ProcessLookupError):  # the test has killed them
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def is_up(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def shown(client: httpx.AsyncClient, number: int) -> Any:
    return (await client.get(f"/orders/{number}")).json()


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'orders.db'}"
    found: str = request.getfixturevalue("mongodb_database_url")
    return found


def order(number: int) -> dict[str, Any]:
    return {"number": number, "items": ["tea", "cup"], "cents": 150_000}


async def place(client: httpx.AsyncClient, number: int) -> None:
    """Place an order, and wait until it waits for its approval."""
    placed = await client.post("/orders", json=order(number))
    assert (placed.status_code, placed.json()["id"]) == (202, f"order-{number}")
    await until(lambda: shown(client, number), lambda status: status["progress"] == "waiting for approval")


async def approve(client: httpx.AsyncClient, number: int, *, approved: bool = True) -> int:
    answer = {"approved": approved, "by": "Ann"}
    return (await client.post(f"/orders/{number}/approval", json=answer)).status_code


async def result(client: httpx.AsyncClient, number: int) -> str:
    status = await until(lambda: shown(client, number), lambda status: status["status"] != "Running", 60)
    assert status["status"] == "Completed"
    return str(status["result"])


async def test_orders_survive_that_every_process_is_killed(url: str, tmp_path: Path) -> None:
    port = free_port()
    async with TaskHub(url) as watcher:
        async with service(url, tmp_path, port) as (client, group):
            await until(watcher.workers, lambda found: len(found) == 2)
            for number in range(1, 7):
                await place(client, number)
            assert (await client.post("/orders", json=order(1))).status_code == 409
            assert (await client.get("/orders/99")).status_code == 404
            for number in (1, 2, 3):  # these are being charged when the processes die
                assert await approve(client, number) == 202
            await until(lambda: shown(client, 3), lambda status: status["progress"] == "charging")
            os.killpg(group, signal.SIGKILL)
        assert [one.instance_id async for one in watcher.query(status=RuntimeStatus.RUNNING)]
        async with service(url, tmp_path, port) as (client, _):
            for number in (4, 5, 6):
                assert await approve(client, number, approved=number != 6) == 202
            for number in range(1, 6):
                assert (await result(client, number)).startswith("receipt ")
            assert await result(client, 6) == "rejected"
            assert await approve(client, 1) == 409
        # Two items and a charge: the charge is in history once, however often the payment service was asked.
        history = await watcher.get("order-3").history()
        assert [type(event) for event in history].count(TaskCompleted) == 3


def readme_commands() -> list[str]:
    """The lines of the shell blocks in the README's section on the order service."""
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## An order service\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="needs bash and curl")
def test_the_commands_of_the_readme_work_as_typed(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "bin").mkdir()
    for name, module in {"durable": "durable.cli", "uvicorn": "uvicorn"}.items():
        script = tmp_path / "bin" / name  # as the installed script would
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    lines = [line for line in readme_commands() if not line.startswith("pip install")]
    served = [line for line in lines if line.startswith("uvicorn ")]
    assert (len(served), any(line.startswith("durable ") for line in lines)) == (1, True)
    body = "\n".join(f"{line} --port {port} >uvicorn.log 2>&1 &" if line in served else line for line in lines)
    waits = "until durable show order-7 | grep --quiet 'waiting for approval'; do sleep 0.1; done"
    body = body.replace("durable show order-7\n", f"{waits}\ndurable show order-7\n")  # who types takes longer
    body = body.replace("localhost:8000", f"127.0.0.1:{port}")
    body = body.replace(
        "curl ", "curl --noproxy '*' --fail --silent --show-error --retry 100 --retry-all-errors --retry-delay 1 "
    )
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    with subprocess.Popen(
        ["bash", "-e", "-c", body],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=90)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output
    assert "waiting for approval" in output
    assert "ExecutionCompleted" in output
