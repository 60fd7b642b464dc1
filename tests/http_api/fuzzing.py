"""What the OpenAPI document promises, tried by schemathesis: a server in a thread, and the operations of the document.

The server is a real one, for schemathesis is not asynchronous and the hub lives in one event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.schemas import BaseSchema

from durable import EntityId
from durable.http import http_server
from durable.http.calls import BASE_PATH
from durable.http.errors import BadRequestError
from durable.http.openapi import document
from durable.http.operations import OPERATIONS
from durable.http.starting import TIMEOUT
from tests.http_api.service import approval, make_hub, registry

EXAMPLES = 15
bounded = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
"""So many tries of each operation, the same ones each time."""

KNOWN = ("one", "two")
"""Instances that are there; entities of these keys, too."""


def api_schema(names: Iterable[str]) -> BaseSchema:
    """The document's operations of these names, as schemathesis reads them."""
    functions = list(registry.orchestrators)
    described = document(OPERATIONS, base_path=BASE_PATH, server="http://127.0.0.1", hub="default", functions=functions)
    schema = schemathesis.openapi.from_dict(described)
    return schema.include(operation_id=list(names))


def checks() -> list[Any]:
    """All checks but those that do not fit: here a wrong method is 404, as in Durable Functions, and rules that no
    schema can say (an id that is taken, arguments that an orchestrator takes) refuse what the schema allows.
    """
    left_out = {"unsupported_method", "positive_data_acceptance"}
    return [check for check in CHECKS.get_all() if check.__name__ not in left_out]


@contextmanager
def server(url: str) -> Generator[str]:
    """The origin of a server in a thread, with a worker on the store at ``url``."""
    started: list[str] = []
    ready = threading.Event()
    stopping: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        hub = make_hub(url)
        stop = asyncio.Event()
        stopping.append((asyncio.get_running_loop(), stop))
        async with hub.worker(), http_server(hub) as origin:
            for name in KNOWN:
                await hub.start(approval, instance_id=name)
                await hub.signal_entity(EntityId("counter", name), "add", 1)
            started.append(origin)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield started[0]
    finally:
        loop, stop = stopping[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def use_known(case: Any, index: int) -> None:
    """Have every other case be about what is there, and none wait for long."""
    if case.query and "timeout" in case.query:
        with suppress(BadRequestError):
            TIMEOUT.value(str(case.query["timeout"]))
            case.query["timeout"] = 0.05
    known = KNOWN[index // 2 % len(KNOWN)]
    for name, value in {"instanceId": known, "entityKey": known, "entityName": "counter"}.items():
        if case.path_parameters and name in case.path_parameters and index % 2:
            case.path_parameters[name] = value
