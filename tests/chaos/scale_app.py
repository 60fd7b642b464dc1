"""A worker process of the scale-out tests; its activities say in which process they ran.

    python -m tests.chaos.scale_app URL LEASE_SECONDS {near|far} FOLDER

``far`` makes it look like a process of another machine. FOLDER is where ``hold`` looks for its release.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import field
from pathlib import Path
from uuid import uuid4

from durable import OrchestrationContext, Registry, Settings, TaskHub
from durable.worker import partitions

PARTITIONS = 8
registry = Registry()
folder = Path()


@registry.activity
async def where(number: int) -> int:
    await asyncio.sleep(0.01)
    return os.getpid()


@registry.activity
async def hold(name: str) -> int:
    """Says that it runs here, and waits until it is released."""
    pid = os.getpid()
    (folder / f"{name}.{pid}.running").touch()
    while not (folder / f"{name}.{pid}.release").exists():
        await asyncio.sleep(0.02)
    return pid


@registry.entity
class Tally:
    pids: list[int] = field(default_factory=list)

    def mark(self, pid: int) -> int:
        self.pids = sorted({*self.pids, pid})
        return os.getpid()


@registry.orchestrator
async def leaf(ctx: OrchestrationContext, number: int) -> list[int]:
    pid = await where(number)
    return [pid, await ctx.call_entity(Tally.mark, str(number), pid)]


@registry.orchestrator
async def tree(ctx: OrchestrationContext, leaves: int) -> list[list[int]]:
    """What every leaf met: the process of its activity and that of its entity."""
    return await asyncio.gather(*[leaf(number) for number in range(leaves)])


@registry.orchestrator
async def held(ctx: OrchestrationContext, name: str) -> list[int]:
    first = await hold(name)
    return [first, await where(0)]


def main(url: str, lease_time: str, place: str, where_to: str) -> None:
    global folder
    folder = Path(where_to)
    logging.basicConfig(level=logging.WARNING, format=f"{os.getpid()} %(levelname)s %(message)s")
    if place == "far":
        partitions._host = lambda: f"another machine {uuid4().hex}"
    asyncio.run(_work(url, float(lease_time)))


async def _work(url: str, lease_time: float) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    hub = TaskHub(url, settings=Settings(partitions=PARTITIONS, lease_time=lease_time, drain_time=5.0))
    hub.include(registry)
    async with hub.worker():
        await stopped.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
