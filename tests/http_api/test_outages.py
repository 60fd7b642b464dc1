"""What the API answers when something below it is missing: the store, or a package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from durable import Settings, TaskHub
from durable.testing.faults import Fault, FaultyBackend, Step
from durable.testing.memory import MemoryBackend
from tests.http_api.service import client_of, error_of


async def test_a_store_that_does_not_answer_is_503() -> None:
    down: set[str] = set()
    backend = FaultyBackend(
        MemoryBackend.from_url(f"memory://{uuid4().hex}", "default"),
        lambda operation: Step(Fault.FAIL_BEFORE if operation in down else Fault.NONE),
    )
    hub = TaskHub(backend, settings=Settings(start_timeout=0.1))
    async with hub, client_of(hub.http_app()) as client:
        assert (await client.post("/orchestrators/later/one", json=1)).status_code == 202  # workers elsewhere know it
        down.update({"get", "send", "create_instances"})
        for method, path in [
            ("GET", "/instances/one"),
            ("POST", "/instances/one/terminate"),
            ("POST", "/orchestrators/later/two"),
        ]:
            response = await client.request(method, path)
            assert error_of(response, 503)[0] == "BackendUnavailable"
            assert response.headers["retry-after"] == "5"
        assert (await client.get("http://127.0.0.1/healthz")).status_code == 200
        down.clear()
        assert (await client.get("/instances/one")).status_code == 202


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("starlette", "TaskHub('memory://x').http_app()"),
        ("starlette", "import durable.http"),
        ("uvicorn", "import durable.http; asyncio.run(serve(durable.http.http_server(TaskHub('memory://x'))))"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package: str, use: str, tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
sys.modules[{package!r}] = None
from durable import TaskHub

async def serve(server):
    async with server:
        pass

try:
    {use}
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert f"needs the package {package!r}" in done.stdout, done.stdout + done.stderr
    assert "pip install 'durable-orchestrations[http]'" in done.stdout
