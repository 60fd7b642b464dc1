"""Fan-out and fan-in: many activities at once, progress shown by custom status, one result.

python examples/fan_out.py
"""

import asyncio
from itertools import pairwise
from math import isqrt

from durable import InstanceHandle, OrchestrationContext, TaskHub

hub = TaskHub("sqlite:///fan_out.db")


@hub.activity
def count_primes(start: int, stop: int) -> int:  # a plain function: runs in a thread
    def is_prime(number: int) -> bool:
        return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))

    return sum(map(is_prime, range(start, stop)))


@hub.orchestrator
async def primes_below(ctx: OrchestrationContext, limit: int, parts: int) -> int:
    edges = [limit * part // parts for part in range(parts + 1)]
    calls = [count_primes(start, stop) for start, stop in pairwise(edges)]
    found = 0
    for done, outcome in enumerate(asyncio.as_completed(calls), 1):
        found += await outcome
        ctx.set_custom_status({"done": done, "of": parts, "found": found})
    return found


async def show_progress(handle: InstanceHandle[int]) -> int:
    result = asyncio.create_task(handle.result())
    shown = None
    while not result.done():
        await asyncio.wait([result], timeout=0.1)
        progress = (await handle.status()).custom_status
        if progress and progress != shown:
            print(f"{progress['done']:2} of {progress['of']} parts done, {progress['found']} primes found", flush=True)
            shown = progress
    return await result


async def main() -> None:
    async with hub.worker():
        handle = await hub.start(primes_below, 300_000, parts=20)
        print(f"There are {await show_progress(handle)} primes below 300000.")


if __name__ == "__main__":
    asyncio.run(main())
