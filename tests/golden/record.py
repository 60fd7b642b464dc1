"""Records histories that are not kept yet: ``python -m tests.golden.record``. It never replaces one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from durable import InstanceHandle, OrchestrationFailedError, TaskHub
from durable.core.codec import event_to_dict
from durable.core.events import HistoryEvent
from durable.core.ids import earlier_execution_id
from durable.testing.memory import MemoryBackend
from tests.golden.patterns import Answer, BusySite, Level, Student, registry

FOLDER = Path(__file__).parent
DEADLINE = 30


@dataclass(frozen=True)
class Event:
    """An external event, raised once the custom status is ``when``."""

    when: Any
    name: str
    data: Any


@dataclass(frozen=True)
class Recording:
    """How the history of one file comes about: an orchestrator, its input, and what is raised to it.

    ``back`` is the number of executions before the last one that the kept one is. With ``fork_from`` it is that of a
    fork from the event of that number.
    """

    orchestrator: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    events: tuple[Event, ...] = ()
    back: int = 0
    fork_from: int | None = None


_STOP = (Event({"rounds": 3}, "stop", True),)
_DEVICES = ["lamp", "broken", "camera"]
RECORDINGS = {
    "chain": Recording("chain", (["Tokyo", "Seattle", "London"],)),
    "chain_forked": Recording("chain", (["Tokyo", "Seattle", "London"],), fork_from=8),
    "fan_out": Recording("fan_out", (20,)),
    "queued": Recording("queued", (["a", "b"],)),
    "timers": Recording("timers"),
    "failures": Recording("failures"),
    "sets_of_tasks": Recording("sets_of_tasks"),
    "function_chaining": Recording("function_chaining", (7,)),
    "write_report": Recording("write_report", ("tea", 3)),
    "back_up": Recording("back_up", (15,)),
    "monitor": Recording("monitor", (4, timedelta(minutes=1))),
    "monitor_gives_up": Recording("monitor", (99, timedelta(milliseconds=50))),
    "approve": Recording(
        "approve", (timedelta(days=1),), events=(Event("waiting for the manager", "answer", Answer(True, "manager")),)
    ),
    "approve_escalated": Recording(
        "approve",
        (timedelta(milliseconds=50),),
        events=(Event("waiting for the director", "ANSWER", Answer(False, "director")),),
    ),
    "device_provisioning": Recording("device_provisioning", ("lamp",)),
    "device_provisioning_fails": Recording("device_provisioning", ("broken",)),
    "provision_new_devices": Recording("provision_new_devices", (_DEVICES,)),
    "check_site": Recording("check_site", ("http://site.invalid/health",)),
    "recommend_courses": Recording(
        "recommend_courses", (Student("Ann", Level.ADVANCED, {"advanced-20"}), ["tea"]), (("most_hours", 50),)
    ),
    "eternal_cleanup": Recording("eternal_cleanup", (timedelta(milliseconds=20),), events=_STOP),
    "eternal_cleanup_first": Recording("eternal_cleanup", (timedelta(milliseconds=20),), events=_STOP, back=2),
    "book_trip": Recording("book_trip", (True,)),
    "book_trip_undone": Recording("book_trip", (False,)),
    "transfer": Recording("transfer", ("zoe", "ann", 30)),
    "transfer_refused": Recording("transfer", ("zoe", "ann", 300)),
    "balances": Recording("balances", (["ann", "zoe"],)),
}


def open_hub(backend: MemoryBackend) -> TaskHub:
    """A hub that knows all that is recorded, and whose HTTP calls reach no network."""
    hub = TaskHub(backend, http=BusySite())
    hub.include(registry)
    return hub


async def record(name: str, recording: Recording) -> None:
    backend = MemoryBackend()
    hub = open_hub(backend)
    async with hub.worker():
        handle = await hub.start(
            recording.orchestrator, *recording.args, instance_id=f"golden-{name}", **dict(recording.kwargs)
        )
        for event in recording.events:
            await until_custom_status(event.when, handle)
            await handle.raise_event(event.name, event.data)
        with suppress(OrchestrationFailedError):  # a failure is a history too
            await handle.result(DEADLINE)
        if recording.fork_from is not None:
            handle = await handle.fork(from_event=recording.fork_from, instance_id=f"golden-{name}-fork")
            await handle.result(DEADLINE)
        execution = earlier_execution_id((await handle.status()).execution_id, recording.back)
        assert execution is not None
        parts = await backend.load(handle.instance_id, execution, limit=1000)
        history = [event for part in parts for event in part.events]
    write(name, history)


async def until_custom_status(wanted: Any, handle: InstanceHandle[Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await handle.status()).custom_status != wanted:
            await asyncio.sleep(0.005)


def write(name: str, history: Iterable[HistoryEvent]) -> None:
    events = [event_to_dict(event) for event in history]
    nested = [kept for event in events for kept in event.get("events", ())]
    for event in events + nested:
        event.pop("worker", None)  # names the machine, as do the paths of a stack
        forget_stacks(event.get("failure", {}))
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def forget_stacks(failure: dict[str, Any]) -> None:
    """Drop the stacks of a failure and of its causes."""
    failure.pop("stack_trace", None)
    if cause := failure.get("cause"):
        forget_stacks(cause)


if __name__ == "__main__":
    for name, recording in RECORDINGS.items():
        if not (FOLDER / f"{name}.json").exists():
            asyncio.run(record(name, recording))
