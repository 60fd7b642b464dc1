"""The activity runner's bound: whichever way an attempt ends, the next one gets its room."""

from __future__ import annotations

import asyncio
from typing import Any

from durable.core.events import TaskScheduled
from durable.definitions import Activity
from durable.worker.activities import ActivityRunner, Attempt


async def test_an_attempt_that_is_cancelled_before_it_runs_makes_room() -> None:
    ran: list[int] = []
    last = asyncio.Event()

    async def work(number: int) -> None:
        ran.append(number)

    def delivered(attempt: Attempt, outcome: Any) -> None:
        if attempt.scheduled.task_id == 3:
            last.set()

    definition: Activity[Any, Any] = Activity(work, None)
    attempts = [Attempt("i", "e", TaskScheduled(1, n, "work", f"[{n}]"), definition, 1) for n in (1, 2, 3)]
    runner = ActivityRunner("w", lambda: 0, delivered, lambda *_: None, limit=1, threads=1, max_deliveries=3)
    for attempt in attempts:
        runner.start(attempt)
    runner.cancel(attempts[0].key)  # launched, without a line run
    async with asyncio.timeout(5):
        await last.wait()
    assert ran == [2, 3]
    await runner.close()


async def test_close_starts_nothing_that_waits() -> None:
    ran: list[int] = []
    entered = asyncio.Event()

    async def work(number: int) -> None:
        ran.append(number)
        entered.set()
        await asyncio.Event().wait()

    definition: Activity[Any, Any] = Activity(work, None)
    attempts = [Attempt("i", "e", TaskScheduled(1, n, "work", f"[{n}]"), definition, 1) for n in (1, 2, 3)]
    runner = ActivityRunner("w", lambda: 0, lambda *_: None, lambda *_: None, limit=1, threads=1, max_deliveries=3)
    for attempt in attempts:
        runner.start(attempt)
    async with asyncio.timeout(5):
        await entered.wait()
    await runner.close()
    assert ran == [1]
    assert asyncio.all_tasks() == {asyncio.current_task()}
