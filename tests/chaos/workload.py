"""What the chaos and simulation tests run: orchestrators, the activities they call, and what each must come to.

Rule of this file: ``expected`` is written from the meaning of the orchestrators in plain Python; it
shares no code with the engine and none with the orchestrators but the arithmetic of one step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from durable import ActivityContext, ActivityFailedError, OrchestrationContext, Registry
from tests.chaos.checker import StoredInstance

registry = Registry()

Recorder = Callable[[ActivityContext], None]
_recorder: list[Recorder] = []


def record_effects_with(recorder: Recorder) -> None:
    """Have every activity of this process report its side effect to ``recorder``, just before it returns."""
    _recorder[:] = [recorder]


def effect() -> None:
    """Report the side effect of the activity that runs now."""
    _recorder[0](ActivityContext.current())


def advance(value: int) -> int:
    """The arithmetic of one step."""
    return (value * 3 + 1) % 1_000_003


# --- activities --------------------------------------------------------------------------


@registry.activity
async def step(value: int, delay: float = 0.0) -> int:
    if delay:
        await asyncio.sleep(delay)
    effect()
    if delay:
        await asyncio.sleep(delay)  # who dies here has done it, and told nobody
    return advance(value)


@registry.activity
def step_in_thread(value: int) -> int:
    effect()
    return advance(value)


@registry.activity
async def keyed_step(key: str, value: int) -> int:
    assert len(key) == 36
    effect()
    return advance(value)


@registry.activity
async def refuse(value: int) -> int:
    effect()
    raise ValueError(f"{value} is refused")


@registry.activity
async def linger() -> None:
    await asyncio.sleep(3600)


# --- orchestrators -----------------------------------------------------------------------


@registry.orchestrator
async def sequence(ctx: OrchestrationContext, value: int, count: int) -> int:
    for _ in range(count):
        value = await step(value, 0.05)
    return value


@registry.orchestrator
async def fan_out(ctx: OrchestrationContext, width: int) -> list[int]:
    return await asyncio.gather(*(step(value, 0.02 * (value % 2)) for value in range(width)))


@registry.orchestrator
async def timers(ctx: OrchestrationContext, delays: list[float]) -> int:
    before = ctx.now
    await asyncio.gather(*(asyncio.sleep(delay) for delay in delays))
    for delay in delays:
        await asyncio.sleep(delay)
    # A list of one: true when both rounds took as long as they must.
    return int((ctx.now - before).total_seconds() >= max(delays) + sum(delays) - 1e-3)


@registry.orchestrator
async def mixed(ctx: OrchestrationContext, value: int) -> dict[str, Any]:
    ctx.set_custom_status({"phase": "group"})
    async with asyncio.TaskGroup() as group:
        left = group.create_task(step(value, 0.02))
        right = group.create_task(keyed_step(str(ctx.new_uuid()), value + 1))
        group.create_task(asyncio.sleep(0.05))
    try:
        await asyncio.wait_for(linger(), 0.2)
    except TimeoutError:
        late = "late"
    ctx.set_custom_status({"phase": "refusal"})
    try:
        await refuse(left.result())
    except ActivityFailedError as error:
        refusal = error.details.message
    return {"sum": left.result() + right.result(), "late": late, "refusal": refusal}


@registry.orchestrator
async def race(ctx: OrchestrationContext, count: int) -> list[int]:
    """As they come: the order is history's alone to know."""
    calls = [step(value, 0.005 * (value % 3)) for value in range(count)]
    return [await first for first in asyncio.as_completed(calls)]


@registry.orchestrator
async def winner(ctx: OrchestrationContext, value: int) -> int:
    """The first of two ends it; the other, and a timer, are given up."""
    calls = [asyncio.ensure_future(step(value, 0.01)), asyncio.ensure_future(step(value, 0.012))]
    limit = asyncio.ensure_future(asyncio.sleep(3600))
    done, pending = await asyncio.wait([*calls, limit], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return max([task.result() or 0 for task in done]) + await step(value)


@registry.orchestrator
async def failing(ctx: OrchestrationContext, value: int) -> int:
    value = await step(value)
    await asyncio.sleep(0.01)
    await refuse(value)
    return value


@registry.orchestrator
async def threaded(ctx: OrchestrationContext, value: int, count: int) -> int:
    for _ in range(count):
        value = await step_in_thread(value)
    return value


# --- what they must come to ----------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """An instance to start: the orchestrator's name and its arguments."""

    name: str
    args: tuple[Any, ...]


def job(number: int, *, threads: bool) -> Job:
    """The job of that number: the kinds take turns."""
    match number % (8 if threads else 7):
        case 0:
            return Job("sequence", (number, 4 + number % 5))
        case 1:
            return Job("fan_out", (5 + number % 20,))
        case 2:
            return Job("timers", ([0.05 + 0.01 * (number % 7), 0.1, 0.02],))
        case 3:
            return Job("mixed", (number,))
        case 4:
            return Job("race", (3 + number % 5,))
        case 5:
            return Job("winner", (number,))
        case 6:
            return Job("failing", (number,))
        case _:
            return Job("threaded", (number, 3))


def complaint(given: Job, status: str, output: str | None, failure: str | None) -> str | None:
    """What is wrong with the way a job ended; None when nothing is."""
    if given.name == "failing":
        wanted = f"{_advanced(given.args[0], 1)} is refused"
        right = status == "Failed" and failure is not None and wanted in failure
        return None if right else f"should have failed with {wanted!r}, is {status} with {failure!r}"
    if status != "Completed" or output is None:
        return f"should be Completed, is {status} with {failure!r}"
    result = json.loads(output)
    wanted_result = _expected(given)
    if given.name == "race":
        result = sorted(result)
    return None if result == wanted_result else f"should have given {wanted_result!r}, gave {result!r}"


def outcome_findings(instances: Iterable[StoredInstance], jobs: Mapping[str, Job]) -> list[str]:
    """Instances that did not come to what their job must come to."""
    found = []
    for instance in instances:
        verdict = complaint(jobs[instance.instance_id], instance.status, instance.output, instance.failure)
        if verdict is not None:
            found.append(f"{instance.instance_id}: {verdict}")
    return found


def _expected(given: Job) -> Any:
    match given.name, given.args:
        case (("sequence" | "threaded"), (value, count)):
            return _advanced(value, count)
        case "fan_out", (width,):
            return [_advanced(value, 1) for value in range(width)]
        case "race", (count,):
            return sorted(_advanced(value, 1) for value in range(count))
        case "timers", _:
            return 1
        case "winner", (value,):
            return 2 * _advanced(value, 1)
        case "mixed", (value,):
            left, right = _advanced(value, 1), _advanced(value + 1, 1)
            return {"sum": left + right, "late": "late", "refusal": f"{left} is refused"}
    raise ValueError(f"no expectation for {given}")


def _advanced(value: int, times: int) -> int:
    for _ in range(times):
        value = advance(value)
    return value
