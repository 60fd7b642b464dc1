"""A hub inside somebody else's application: ASGI frameworks, plain asyncio, anyio, uvloop, and several hubs at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import litestar
import pytest
import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from durable import OrchestrationContext, Registry, TaskHub
from durable.core.events import TaskCompleted
from durable.serving import SIGNALS, Stopped, stop_signals

registry = Registry()


@registry.activity
async def greet(name: str) -> str:
    return f"Hello {name}!"


@registry.orchestrator
async def welcome(ctx: OrchestrationContext, name: str) -> str:
    return await greet(name)


def new_hub(url: str, name: str = "default") -> TaskHub:
    hub = TaskHub(url, name=name)
    hub.include(registry)
    return hub


def fastapi_app(hub: TaskHub, lifespan: Any) -> Any:
    app = FastAPI(lifespan=lifespan)

    @app.get("/welcome/{name}")
    async def answer(name: str) -> str:
        return await (await hub.start(welcome, name)).result(30)

    return app


def starlette_app(hub: TaskHub, lifespan: Any) -> Any:
    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(await (await hub.start(welcome, request.path_params["name"])).result(30))

    return Starlette(routes=[Route("/welcome/{name}", answer)], lifespan=lifespan)


def litestar_app(hub: TaskHub, lifespan: Any) -> Any:
    @litestar.get("/welcome/{name:str}")
    async def answer(request: litestar.Request[Any, Any, Any]) -> str:
        return await (await hub.start(welcome, request.path_params["name"])).result(30)

    return litestar.Litestar([answer], lifespan=[lifespan], logging_config=None)


APPS = {"FastAPI": fastapi_app, "Starlette": starlette_app, "Litestar": litestar_app}


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The application under uvicorn on a loopback port, and a client for it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("framework", APPS)
async def test_a_worker_and_a_client_in_an_application(framework: str, tmp_path: Path) -> None:
    hub = new_hub(f"sqlite:///{tmp_path}/app.db")
    async with served(APPS[framework](hub, hub.lifespan)) as client:
        response = await client.get("/welcome/Ann")
        assert (response.status_code, response.text.strip('"')) == (200, "Hello Ann!")
        assert (await hub.health()).worker
    assert (await hub.health()).status == "down"


@pytest.mark.parametrize("framework", APPS)
async def test_a_client_alone_in_an_application(framework: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    client_hub, worker_hub = new_hub(url), new_hub(url)
    async with worker_hub.worker(), served(APPS[framework](client_hub, client_hub.client_lifespan)) as client:
        assert "Hello Bob!" in (await client.get("/welcome/Bob")).text
        assert not (await client_hub.health()).worker
    assert not client_hub.healthy


async def main(url: str) -> str:
    hub = new_hub(url)
    async with hub.worker():
        return await (await hub.start(welcome, "Cid")).result(30)


def by_anyio(work: Coroutine[Any, Any, str]) -> str:
    async def whole() -> str:
        return await work

    return anyio.run(whole)


@pytest.mark.parametrize("run", [asyncio.run, by_anyio, uvloop.run], ids=["asyncio", "anyio", "uvloop"])
def test_a_program_of_ones_own(run: Callable[[Coroutine[Any, Any, str]], str], tmp_path: Path) -> None:
    assert run(main(f"sqlite:///{tmp_path}/program.db")) == "Hello Cid!"


async def test_several_hubs_in_one_process(tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path}/shared.db"
    hubs = [new_hub(shared, "orders"), new_hub(shared, "mails"), new_hub(f"sqlite:///{tmp_path}/own.db")]
    async with hubs[0].worker(), hubs[1].worker(), hubs[2].worker():
        handles = [await hub.start(welcome, hub.name, instance_id="same") for hub in hubs]
        assert [await handle.result(30) for handle in handles] == ["Hello orders!", "Hello mails!", "Hello default!"]
        for hub in hubs:
            assert [status.output async for status in hub.query()] == [f"Hello {hub.name}!"]
            assert len(await hub.workers()) == 1


SERVICE = """
import asyncio
from durable import OrchestrationContext, TaskHub

hub = TaskHub()

@hub.activity
async def work() -> str:
    print("begun", flush=True)
    await asyncio.sleep(1)
    return "done"

@hub.orchestrator
async def job(ctx: OrchestrationContext) -> str:
    return await work()
"""
AS_APPLICATION = """
import uvicorn
from fastapi import FastAPI

uvicorn.run(FastAPI(lifespan=hub.lifespan), port=0, log_level="warning")
"""
AS_PROGRAM = "asyncio.run(hub.run_worker())\n"


@pytest.mark.parametrize("ending", [AS_APPLICATION, AS_PROGRAM], ids=["application", "program"])
async def test_sigterm_lets_what_runs_end(ending: str, tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    await asyncio.to_thread(script.write_text, SERVICE + ending)
    url = f"sqlite:///{tmp_path}/service.db"
    async with TaskHub(url) as client:
        handle = await client.start("job")
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, env={**os.environ, "DURABLE_URL": url}, stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(60):
                assert process.stdout is not None
                assert await process.stdout.readline() == b"begun\n"
                process.send_signal(signal.SIGTERM)
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode in (0, -signal.SIGTERM), errors.decode()  # uvicorn raises the signal again at its end
        assert b"Traceback" not in errors
        assert any(isinstance(event, TaskCompleted) for event in await handle.history())
        assert await client.workers() == []


async def test_signal_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    async with stop_signals() as stopped:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(stopped.wait(), 10)
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_only_a_second_signal_cuts_short() -> None:
    async def serve(begun: asyncio.Event) -> None:
        async with stop_signals():
            begun.set()
            await asyncio.Event().wait()

    for signals, expected in ((2, Stopped), (0, asyncio.CancelledError)):
        begun = asyncio.Event()
        serving = asyncio.create_task(serve(begun))
        await begun.wait()
        for _ in range(signals):
            signal.raise_signal(signal.SIGTERM)
        if not signals:
            serving.cancel()
        with pytest.raises(expected):
            await serving
