"""What ``make demo`` runs: a sequence and its history; then a process killed in the middle, and its work finished.

python examples/demo.py    exit status 0 only if everything was as it claims

With ``--worker URL INSTANCE`` it is one of its own child processes: the one that is killed, or the one that goes on.
"""

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from durable import OrchestrationContext, Registry, TaskHub

STEPS = 6
KILLED_IN = 4
STEP_SECONDS = 0.3
DEADLINE = 60.0

definitions = Registry()


# --- the orchestrations ----------------------------------------------------------------


@definitions.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@definitions.orchestrator
async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await say_hello(city) for city in cities]


@definitions.activity
async def work(step: int) -> str:
    print(f"step {step} begins", flush=True)
    await asyncio.sleep(STEP_SECONDS)
    print(f"step {step} done", flush=True)
    return f"step {step} by process {os.getpid()}"


@definitions.orchestrator
async def long_sequence(ctx: OrchestrationContext, steps: int) -> list[str]:
    return [await work(step) for step in range(1, steps + 1)]


def open_hub(url: str) -> TaskHub:
    hub = TaskHub(url)
    hub.include(definitions)
    return hub


# --- showing a history -----------------------------------------------------------------


def show_history(events: Sequence[Any]) -> None:
    """Print events as a table, one row each; a cell is empty where that kind of event has no such field."""
    header = ("EventType", "Timestamp", "Name", "Input", "Result", "Status")
    rows = [header, *map(row_of, events)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def row_of(event: Any) -> tuple[str, ...]:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.timestamp)
    fields = [shortened(getattr(event, name, None) or "") for name in ("name", "input", "result", "status")]
    return (type(event).__name__, f"{moment:%H:%M:%S.%f}"[:-3], *fields)


def shortened(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def heading(text: str) -> None:
    print(f"\n{text}\n{'=' * len(text)}\n")


# --- the processes of part 2 -----------------------------------------------------------


async def run_worker(url: str, instance_id: str) -> None:
    """Be a worker until the instance has ended."""
    print("worker starts", flush=True)
    hub = open_hub(url)
    async with hub.worker():
        await hub.get(instance_id).result()
        print("the instance is complete", flush=True)


@asynccontextmanager
async def worker_process(*arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--worker", *arguments, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lines_of(process: Process) -> AsyncIterator[str]:
    """What a worker process prints, line by line; printed here too, with its process id."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode().rstrip():
        print(f"  process {process.pid}: {line}", flush=True)
        yield line


async def run_and_kill(url: str, instance_id: str) -> tuple[int, list[str]]:
    """Let a worker begin and kill it in the middle of a step; return its process id and what it printed."""
    printed: list[str] = []
    async with worker_process(url, instance_id) as process:
        async for line in lines_of(process):
            printed.append(line)
            if line == f"step {KILLED_IN} begins":
                process.kill()
                await process.wait()
                print(f"  process {process.pid}: killed with SIGKILL, in the middle of step {KILLED_IN}\n")
                return process.pid, printed
    raise RuntimeError("the first worker ended before it could be killed")


async def run_to_end(url: str, instance_id: str, killed_at: float) -> tuple[int, list[str]]:
    """Let a new worker finish the work; return its process id and what it printed."""
    printed: list[str] = []
    times: dict[str, float] = {}
    async with worker_process(url, instance_id) as process:
        async for line in lines_of(process):
            printed.append(line)
            times[line] = time.monotonic()
        if await process.wait() != 0:
            raise RuntimeError(f"the second worker ended with exit status {process.returncode}")
    recovered = times.get(f"step {KILLED_IN} begins", times[printed[-1]])
    print(
        f"\n  Recovery took {recovered - times['worker starts']:.2f} s from the start of the new worker to step "
        f"{KILLED_IN} running again,\n  {recovered - killed_at:.2f} s from the kill, which includes starting Python.\n"
    )
    return process.pid, printed


# --- the two parts ---------------------------------------------------------------------


async def show_sequence(url: str) -> dict[str, bool]:
    heading("1. A sequence of three activities, on a new SQLite file")
    hub = open_hub(url)
    async with hub.worker():
        handle = await hub.start(hello_sequence, ["Tokyo", "Seattle", "London"])
        result = await handle.result()
        events = await handle.history()
    print(f"  Result: {result}\n\n  Its history:\n")
    show_history(events)
    return {"the sequence returned its three greetings": result == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]}


async def show_recovery(url: str) -> dict[str, bool]:
    heading(f"2. A sequence of {STEPS} steps, its process killed in the middle")
    async with open_hub(url) as hub:  # a client: it starts and looks, and runs nothing itself
        handle = await hub.start(long_sequence, STEPS)
        print(f"  Started: {(await handle.status()).runtime_status}, until a worker comes.\n", flush=True)
        first, printed_first = await run_and_kill(url, handle.instance_id)
        killed_at = time.monotonic()
        status, before = await handle.status(), await handle.history()
        print(f"  Nobody runs it now. It is {status.runtime_status}; its history so far:\n")
        show_history(before)
        print("  Another process takes over:\n", flush=True)
        second, printed_second = await run_to_end(url, handle.instance_id, killed_at)
        after = await handle.history()
        print(f"  The history kept its {len(before)} rows from before the kill; these followed:\n")
        show_history(after[len(before) :])
        result = await handle.result()
    runs = Counter([*printed_first, *printed_second])
    return judge(first, second, runs, before, after, result)


def judge(
    first: int, second: int, runs: Counter[str], before: list[Any], after: list[Any], result: list[str]
) -> dict[str, bool]:
    """What part 2 claims, and whether it holds. ``runs`` counts what the workers printed."""
    done_by = {step: first if step < KILLED_IN else second for step in range(1, STEPS + 1)}
    scheduled = Counter(event.input for event in after if type(event).__name__ == "TaskScheduled")
    completed = Counter(event.task_id for event in after if type(event).__name__ == "TaskCompleted")
    once = list(scheduled.values()) == list(completed.values()) == [1] * STEPS
    began = {step: runs[f"step {step} begins"] for step in range(1, STEPS + 1)}
    return {
        "every step but the interrupted one ran once": all(began[step] == 1 for step in began if step != KILLED_IN),
        f"step {KILLED_IN}, which the kill interrupted, ran again: activities run at least once": began[KILLED_IN] == 2,
        "the history from before the kill stands unchanged": after[: len(before)] == before,
        "in history each step was scheduled once and has one result": once,
        "the result names, for each step, the process that finished it": (
            result == [f"step {step} by process {process}" for step, process in done_by.items()]
        ),
    }


async def main() -> bool:
    with tempfile.TemporaryDirectory(prefix="durable-demo-") as directory:
        url = f"sqlite:///{Path(directory, 'demo.db').as_posix()}"
        async with asyncio.timeout(DEADLINE):
            claims = await show_sequence(url)
            claims |= await show_recovery(url)
    heading("What this showed")
    for claim, holds in claims.items():
        print(f"  {'yes' if holds else 'NO '}  {claim}")
    print()
    return all(claims.values())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(run_worker(*sys.argv[2:]))
    else:
        sys.exit(0 if asyncio.run(main()) else 1)
