"""Eternal orchestration: clean a directory up, wait, and continue as new, until told to stop.

python examples/eternal_cleanup.py

Each round is an execution of its own, which begins with an empty history; so the instance may run for years. Rounds
never overlap: the pause begins when the round's work is done. ``handle.terminate()`` would end it at once; an external
event, as here, lets it finish its round and return a result.

What survives a crash: the round it is in, the time of the next one, and the total, which goes from round to round
as an argument.
"""

import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from durable import InstanceHandle, InstanceStatus, OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///eternal_cleanup.db"))

PERIOD = timedelta(seconds=0.3)


@hub.activity
def remove_temporary_files(directory: str) -> int:
    files = list(Path(directory).glob("*.tmp"))
    for file in files:
        file.unlink(missing_ok=True)  # an activity may run twice
    return len(files)


@hub.orchestrator
async def clean_up(
    ctx: OrchestrationContext, directory: str, period: timedelta, rounds: int = 0, removed: int = 0
) -> int:
    """How many files were removed in all rounds."""
    removed += await remove_temporary_files(directory)
    ctx.set_custom_status({"rounds": rounds + 1, "removed": removed})
    if await ctx.wait_for_external_event("stop", bool, timeout=period, default=False):
        return removed
    ctx.continue_as_new(directory, period, rounds + 1, removed)


async def until_removed(count: int, handle: InstanceHandle[int]) -> InstanceStatus:
    async with asyncio.timeout(30):
        while True:
            status = await handle.status()
            if status.custom_status and status.custom_status["removed"] == count:
                return status
            await asyncio.sleep(0.05)


def put(directory: str, name: str) -> None:
    Path(directory, name).touch()


async def main() -> bool:
    with tempfile.TemporaryDirectory(prefix="durable-cleanup-") as directory:
        put(directory, "keep.txt")
        async with hub.worker():
            handle = await hub.start(clean_up, directory, PERIOD)
            for litter in range(1, 4):
                put(directory, f"litter-{litter}.tmp")
                status = await until_removed(litter, handle)
                print(f"{status.custom_status}, execution {status.execution_id}", flush=True)
            await handle.raise_event("stop", True)
            removed = await handle.result(timeout=30)
            length = len(await handle.history())
        left = os.listdir(directory)
    print(f"Stopped: {removed} files removed, {left} left.")
    print(f"The history holds the last round only: {length} events.")
    return removed == 3 and left == ["keep.txt"]


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
