"""A worker process of the tests of activity queues; its activities log when they ran, where, and under which key.

    python -m tests.chaos.queue_app URL FOLDER LEASE_SECONDS QUEUES

QUEUES are the names of those that it serves, with commas. The log is FOLDER/log, one JSON line for each begin and end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from durable import ActivityContext, OrchestrationContext, Registry, Settings, TaskHub

registry = Registry()
registry.queue("few", concurrency=3)
registry.queue("keyed", per_key=1)
registry.queue("paced", rate=20, burst=2)
registry.queue("modest", worker_concurrency=2)
registry.queue("special")
registry.queue("line", concurrency=1, ageing=timedelta(seconds=0.2))
folder = Path()


def log(what: str, queue: str, key: str) -> None:
    """One line, written at once: lines of several processes do not mix."""
    line = {"what": what, "queue": queue, "key": key, "pid": os.getpid(), "at": time.monotonic()}
    with (folder / "log").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


@registry.activity(queue="few")
async def work(queue: str, key: str) -> int:
    log("begin", queue, key)
    try:
        await asyncio.sleep(0.04)
    finally:  # also when its claim was lost
        log("end", queue, key)
    return os.getpid()


@registry.activity(queue="few")
async def hold(name: str) -> int:
    """Says that it runs here and, the first time, goes on for ever; later the number of the attempt."""
    attempt = ActivityContext.current().attempt
    (folder / f"{name}.{os.getpid()}").touch()
    while attempt == 1:
        await asyncio.sleep(0.02)
    return attempt


@registry.orchestrator
async def spread(ctx: OrchestrationContext, queue: str, count: int) -> list[int]:
    keys = [f"k{number % 3}" for number in range(count)]
    return list(await asyncio.gather(*[work.options(queue=queue, key=key)(queue, key) for key in keys]))


@registry.orchestrator
async def ranked(ctx: OrchestrationContext, priorities: list[int]) -> None:
    """Calls in one line, each with its priority as the key under which it is logged."""
    line = [work.options(queue="line", priority=priority)("line", str(priority)) for priority in priorities]
    await asyncio.gather(*line)


@registry.orchestrator
async def echo(ctx: OrchestrationContext, text: str) -> str:
    return text


@registry.orchestrator
async def held(ctx: OrchestrationContext, name: str) -> int:
    return await hold(name)


def main(url: str, where: str, lease_time: str, queues: str) -> None:
    global folder
    folder = Path(where)
    settings = Settings(partitions=8, lease_time=float(lease_time), drain_time=5.0, queues=tuple(queues.split(",")))
    hub = TaskHub(url, settings=settings)
    hub.include(registry)
    asyncio.run(hub.run_worker())


if __name__ == "__main__":
    main(*sys.argv[1:])
