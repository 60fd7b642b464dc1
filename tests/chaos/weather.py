"""What comes between workers and their store: connections that break, stall or go silent, and a lock that is held.

Rule of this file: it harms what is under way and nothing that is stored, and it ends as it found things.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from random import Random

from tests.chaos.cut_off import Line, line_to
from tests.chaos.stores import sqlite_path

_PAUSE = 6.0  # seconds from one disturbance to the next, on average


@asynccontextmanager
async def lines_to(url: str, count: int) -> AsyncIterator[tuple[list[Line], list[str]]]:
    """Lines to the server of ``url``, and the URLs that lead through them. A SQLite file needs none."""
    async with AsyncExitStack() as stack:
        if url.startswith("sqlite:"):
            yield [], [url] * count
        else:
            found = [await stack.enter_async_context(line_to(url)) for _ in range(count)]
            yield [line for line, _ in found], [through for _, through in found]


def impatient(url: str) -> str:
    """``url`` for who takes a silence for a failure, and so is left in doubt. A line's URL has options already."""
    return url if url.startswith("sqlite:") else f"{url}&socketTimeoutMS=1000&retryWrites=false"


async def rage(url: str, lines: list[Line], random: Random, raging: Callable[[], bool], done: Counter[str]) -> None:
    """Disturb each line, or the one file, while ``raging``; ``done`` counts what was done, by kind."""
    async with asyncio.TaskGroup() as group:
        for line in lines:
            group.create_task(_disturb(line, Random(random.random()), raging, done))
        if not lines:
            group.create_task(_hold_lock(sqlite_path(url), random, raging, done))


async def _disturb(line: Line, random: Random, raging: Callable[[], bool], done: Counter[str]) -> None:
    while raging():
        await asyncio.sleep(min(random.expovariate(1 / _PAUSE), 2 * _PAUSE))
        match random.choice(("reset", "delay", "silence")):
            case "reset":
                done["connections reset"] += line.break_connections()
            case "delay":
                done["lines delayed"] += 1
                line.cut()
                await asyncio.sleep(random.uniform(0.1, 1.5))
                line.resume()
            case _:
                line.cut()
                await asyncio.sleep(random.uniform(0.5, 4.0))
                done["lines silent"] += 1
                done["connections lost to silence"] += line.restore()


async def _hold_lock(path: str, random: Random, raging: Callable[[], bool], done: Counter[str]) -> None:
    """Keep everybody else from writing for a while, as a long transaction of a stranger does."""
    while raging():
        await asyncio.sleep(min(random.expovariate(1 / _PAUSE), 2 * _PAUSE))
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                continue  # somebody writes
            await asyncio.sleep(random.uniform(0.1, 2.0))
            connection.execute("ROLLBACK")
            done["write locks held"] += 1
