"""A program that prints the order in which things happened, for each of several uses of sets of tasks.

Run many times, with other hash seeds and heap layouts, it must print the same each time. With ``plain`` as its
second argument it runs on asyncio's own loop, to show that the uses can tell.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from durable.testing.virtual_loop import VirtualLoop

Log = Callable[[str], None]
N = 24
TICK = 0.1
"""Seconds, which asyncio's own loop does wait."""


async def worker(log: Log, number: int) -> int:
    log(f"start{number}")
    try:
        await asyncio.sleep(TICK if number % 5 else 0)
    except asyncio.CancelledError:
        log(f"cancel{number}")
        raise
    log(f"end{number}")
    return number


async def wait_done_set(log: Log) -> None:
    tasks = [asyncio.create_task(worker(log, n), name=str(n)) for n in range(N)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    log("done " + " ".join(task.get_name() for task in done))
    log("pending " + " ".join(task.get_name() for task in pending))
    await asyncio.wait(pending)


async def as_completed_tasks(log: Log) -> None:
    tasks = [asyncio.create_task(worker(log, n)) for n in range(N)]
    for next_one in asyncio.as_completed(tasks):
        log(str(await next_one))


async def as_completed_coroutines(log: Log) -> None:
    for next_one in asyncio.as_completed([worker(log, n) for n in range(N)]):
        log(str(await next_one))


async def task_group_abort(log: Log) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(N):
                group.create_task(worker(log, n))
            await asyncio.sleep(TICK / 2)
            raise LookupError
    except* LookupError:
        log("aborted")


async def all_tasks(log: Log) -> None:
    tasks = [asyncio.create_task(worker(log, n), name=str(n)) for n in range(N)]
    log(" ".join(task.get_name() for task in asyncio.all_tasks()))
    await asyncio.gather(*tasks)


async def set_of_futures(log: Log) -> None:
    futures = {asyncio.get_running_loop().create_future(): n for n in range(N)}
    log(" ".join(str(futures[future]) for future in set(futures)))


async def anyio_task_group_cancel(log: Log) -> None:
    async with anyio.create_task_group() as group:
        for n in range(N):
            group.start_soon(worker, log, n)
        await anyio.sleep(TICK / 2)
        group.cancel_scope.cancel()
    log("left")


async def anyio_nested_scopes(log: Log) -> None:
    async def nested(number: int) -> None:
        with anyio.CancelScope():
            async with anyio.create_task_group() as inner:
                inner.start_soon(worker, log, number * 5 + 1)
                with anyio.move_on_after(50 * TICK):
                    await worker(log, number * 5 + 2)

    with anyio.move_on_after(TICK / 2):
        async with anyio.create_task_group() as outer:
            for n in range(N):
                outer.start_soon(nested, n)
    log("left")


SNIPPETS: tuple[Callable[[Log], Coroutine[Any, Any, None]], ...] = (
    wait_done_set,
    as_completed_tasks,
    as_completed_coroutines,
    task_group_abort,
    all_tasks,
    set_of_futures,
    anyio_task_group_cancel,
    anyio_nested_scopes,
)


def main() -> None:
    layout, plain = int(sys.argv[1]), sys.argv[2:] == ["plain"]
    # Blocks of other sizes and holes between them move everything that is allocated from here on.
    ballast = [bytearray(16 + (n * layout) % 700) for n in range(500 + 37 * layout)]
    del ballast[:: 2 + layout % 7]
    for snippet in SNIPPETS:
        log: list[str] = []
        with asyncio.Runner(loop_factory=None if plain else VirtualLoop) as runner:
            runner.run(snippet(log.append))
        sys.stdout.write(f"{snippet.__name__}: {', '.join(log)}\n")


if __name__ == "__main__":
    main()
