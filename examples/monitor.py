"""Monitor: look at a job again and again, with growing pauses, until it is done or the patience is at its end.

python examples/monitor.py

What survives a crash: the deadline, and where in the pauses the monitor was. They are in the store, so a worker
that takes over neither begins anew nor looks too early. A pause costs no memory and no thread; it may last for weeks.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from durable import OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///monitor.db"))

FIRST_PAUSE = timedelta(seconds=0.1)
LONGEST_PAUSE = timedelta(seconds=0.5)


@dataclass
class Job:
    """A job in some other system; here one that is done at a given time."""

    name: str
    done_at: datetime


@hub.activity
async def is_done(job: Job) -> bool:
    done = datetime.now(UTC) >= job.done_at  # an activity may look at the clock; an orchestrator asks ctx.now
    print(f"  {job.name}: {'done' if done else 'still running'}", flush=True)
    return done


@hub.activity
async def alert(text: str) -> None:
    print(f"  ALERT: {text}", flush=True)


@hub.orchestrator
async def monitor(ctx: OrchestrationContext, job: Job, patience: timedelta) -> int | None:
    """How often it looked until the job was done, or None when it was not done in time."""
    deadline = ctx.now + patience
    pause = FIRST_PAUSE
    looks = 1
    while not await is_done(job):
        if ctx.now >= deadline:
            await alert(f"{job.name} is not done after {patience.total_seconds():g} s")
            return None
        await ctx.create_timer(min(ctx.now + pause, deadline))
        pause = min(2 * pause, LONGEST_PAUSE)
        looks += 1
    return looks


async def main() -> bool:
    async with hub.worker():
        now = datetime.now(UTC)
        quick = await hub.start(monitor, Job("quick job", now + timedelta(seconds=1)), timedelta(seconds=60))
        stuck = await hub.start(monitor, Job("stuck job", now + timedelta(days=1)), timedelta(seconds=1.5))
        looks, none = await asyncio.gather(quick.result(timeout=30), stuck.result(timeout=30))
    print(f"The quick job was done at look {looks}; the stuck one was given up.")
    return looks is not None and looks > 1 and none is None


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
