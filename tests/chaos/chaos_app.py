"""A worker process of the chaos tests: runs the workload until SIGTERM, or until it is killed.

    python -m tests.chaos.chaos_app URL EFFECTS_FILE LEASE_SECONDS {near|far} KEEP

``far`` makes it look like a process of another machine, whose death only the end of its leases shows. KEEP is how many
former executions of an instance keep their histories. When it works it makes a file ``up.PID`` beside the effects. The
exit status is STORE_LOST when the store cannot be reached at its begin or its end: it has to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

from durable import ActivityContext, BackendUnavailable, TaskHub
from durable.host_loop import host_runner
from durable.settings import Settings
from durable.worker import entities, partitions
from tests.chaos import pattern_workload, workload

STORE_LOST = 75  # as sysexits.h has it: try again later

ENTITY_ROWS = 60
"""History rows after which an entity goes on in a new execution: few, so that it does so under fire."""


def settings(lease_time: float, keep: int, start_timeout: float = 10.0) -> Settings:
    """What all processes of a chaos run use. Deliveries are not bounded: here workers die of us, not of activities."""
    return Settings(
        partitions=8,
        lease_time=lease_time,
        max_deliveries=10_000,
        cache_instances=40,
        drain_time=10.0,
        keep_executions=keep,
        start_timeout=start_timeout,
    )


def main(url: str, effects: str, lease_time: str, place: str, keep: str) -> None:
    logging.basicConfig(level=logging.WARNING, format=f"{os.getpid()} %(levelname)s %(message)s")
    if place == "far":
        partitions._host = lambda: f"another machine {uuid4().hex}"
    entities.ROLL_AT = ENTITY_ROWS
    _record_effects_in(effects)
    up = str(Path(effects).with_name(f"up.{os.getpid()}"))
    try:
        with host_runner() as runner:
            runner.run(_work(url, settings(float(lease_time), int(keep)), up))
    except BackendUnavailable as error:
        logging.warning("the store is not there: %s", error)
        sys.exit(STORE_LOST)


def _record_effects_in(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def record(context: ActivityContext) -> None:
        # One write call: it is whole or not there, whenever this process is killed.
        os.write(file, f"{context.instance_id} {context.execution_id} {context.task_id} {context.attempt}\n".encode())

    workload.record_effects_with(record)


async def _work(url: str, chosen: Settings, up: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    hub = TaskHub(url, settings=chosen)
    hub.include(pattern_workload.registry)
    async with hub.worker():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _describe, hub)
        os.close(os.open(up, os.O_CREAT, 0o600))
        await stopped.wait()


def _describe(hub: TaskHub) -> None:
    """Log what this worker has in hand: asked for when something is stuck."""
    worker = hub._worker
    assert worker is not None
    logging.warning("owns %s, draining %s", sorted(worker._partitions.owned), sorted(worker._handover.draining))
    logging.warning("attempts: %s", [(attempt.key, attempt.task) for attempt in worker._activities])
    for instance in worker._instances:
        logging.warning("%s %s outstanding %s", instance.instance_id, instance.phase, list(instance.state.activities))
    for instance_id, away in worker._recovery._away.items():
        logging.warning("%s away: %s", instance_id, away)
    for task in asyncio.all_tasks():
        logging.warning("%s", task)


if __name__ == "__main__":
    main(*sys.argv[1:])
