"""Records histories that are not kept yet: ``python -m tests.golden.record``. It never replaces one."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from durable import OrchestrationFailedError, TaskHub
from durable.core.codec import event_to_dict
from tests.golden.definitions import registry

FOLDER = Path(__file__).parent
INPUTS: dict[str, tuple[Any, ...]] = {
    "chain": (["Tokyo", "Seattle", "London"],),
    "fan_out": (20,),
    "timers": (),
    "failures": (),
    "sets_of_tasks": (),
}


async def record(name: str) -> None:
    hub = TaskHub("memory://")
    hub.include(registry)
    async with hub.worker():
        handle = await hub.start(name, *INPUTS[name], instance_id=f"golden-{name}")
        with suppress(OrchestrationFailedError):  # a failure is a history too
            await handle.result(30)
        events = [event_to_dict(event) for event in await handle.history()]
    for event in events:
        event.pop("worker", None)  # names the machine, as do the paths of a stack
        event.get("failure", {}).pop("stack_trace", None)
        event.get("failure", {}).pop("cause", None)
    lines = ",\n".join(json.dumps(event, ensure_ascii=False) for event in events)
    (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    for name in INPUTS:
        if not (FOLDER / f"{name}.json").exists():
            asyncio.run(record(name))
