"""A worker of the suite in a process of its own, for W9: ``python -m durable.bench.burning URL HUB``.

Rule of this file: it stops gracefully when its standard input ends, so also when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys

from durable.bench.running import SETTINGS
from durable.core.context import OrchestrationContext
from durable.host_loop import host_runner
from durable.hub import TaskHub
from durable.registry import Registry

ROUNDS = 100_000
registry = Registry()


def spend(rounds: int) -> None:
    """Hash again and again, holding the interpreter's lock."""
    digest = b""
    for _ in range(rounds):
        digest = hashlib.sha256(digest).digest()


@registry.activity
def burn(rounds: int) -> int:
    """Spend processor time; return the id of the process that did."""
    spend(rounds)
    return os.getpid()


@registry.orchestrator
async def burn_many(ctx: OrchestrationContext, width: int, rounds: int) -> list[int]:
    return list(await asyncio.gather(*[burn(rounds) for _ in range(width)]))


async def work(url: str, hub_name: str) -> None:
    """Run a worker until the standard input ends."""
    hub = TaskHub(url, name=hub_name, settings=SETTINGS)
    hub.include(registry)
    async with hub.worker(activity_threads=1):
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    with host_runner() as runner:
        runner.run(work(*sys.argv[1:]))
