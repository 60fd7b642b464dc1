"""A reminder that survives a restart: stop or kill this program while it waits, and run it again.

python examples/durable_timer.py 60 "The tea is ready"    set a reminder, and wait for all there are
python examples/durable_timer.py                          wait for those that are still outstanding
"""

import asyncio
import sys

from durable import OrchestrationContext, RuntimeStatus, TaskHub

hub = TaskHub("sqlite:///reminders.db")


@hub.activity
async def notify(text: str) -> None:
    print(f"Reminder: {text}", flush=True)


@hub.orchestrator
async def remind(ctx: OrchestrationContext, seconds: float, text: str) -> None:
    ctx.set_custom_status(f"{text!r} in {seconds:g} s from {ctx.now:%H:%M:%S} UTC")
    await asyncio.sleep(seconds)  # a durable timer: its time is in the store, not in this process
    await notify(text)


async def main(arguments: list[str]) -> None:
    async with hub.worker():
        if arguments:
            seconds, text = float(arguments[0]), " ".join(arguments[1:]) or "Time is up"
            handle = await hub.start(remind, seconds, text)
            print(f"Set: {handle.instance_id}", flush=True)
        outstanding = [
            status async for status in hub.query(name="remind", status=[RuntimeStatus.PENDING, RuntimeStatus.RUNNING])
        ]
        for status in outstanding:
            print(f"Waiting: {status.custom_status or status.instance_id}", flush=True)
        await asyncio.gather(*(hub.get(status.instance_id).result() for status in outstanding))
    print("Nothing left to wait for.")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("Stopped. The reminders are in reminders.db; run the program again to go on waiting.")
