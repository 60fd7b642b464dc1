"""How a hub stands: whether its store answers, whether its worker works, and which workers share it.

Rule of this file: it only looks. Nothing here changes the store, and a store that does not answer is an answer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from durable.backend import Backend, BackendError, Topology
from durable.clock import Clock, to_datetime
from durable.worker.worker import Worker

PROBE_TIMEOUT = 2.0
"""Seconds that the store has to answer before the hub counts as down."""


@dataclass(frozen=True, slots=True)
class HubHealth:
    """How a hub stands in this process.

    ``status`` is ``ok``; ``degraded`` when the store answers and the worker here does not work; ``down`` when the
    hub is not connected or its store does not answer. ``connected``: the store answered. ``worker``: one runs in
    this process; then ``worker_id`` is its id and ``partitions_owned`` how many partitions it holds. ``problem``
    says what is wrong, and is None when ``status`` is ``ok``.
    """

    status: Literal["ok", "degraded", "down"]
    hub: str
    connected: bool
    worker: bool
    worker_id: str | None
    partitions_owned: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker whose heartbeat has not expired. ``started_at`` is UTC; ``host`` names machine and process namespace."""

    worker_id: str
    host: str
    pid: int
    started_at: datetime
    partitions: tuple[int, ...]


async def check_health(hub: str, backend: Backend | None, worker: Worker | None, clock: Clock) -> HubHealth:
    """Ask the store, for :data:`PROBE_TIMEOUT` seconds at most, and the worker. Raises nothing for what is wrong."""
    worker_id = None if worker is None else worker.worker_id
    if backend is None:
        return HubHealth("down", hub, False, worker is not None, worker_id, 0, "the hub is not connected")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            topology = await backend.topology(clock())
    except (BackendError, TimeoutError) as error:
        problem = str(error) or f"the store did not answer within {PROBE_TIMEOUT:g} s"
        return HubHealth("down", hub, False, worker is not None, worker_id, 0, problem)
    owned = 0 if worker_id is None else len(_partitions_by_owner(topology, clock()).get(worker_id, ()))
    broken = None if worker is None else _worker_problem(worker)
    status: Literal["ok", "degraded"] = "ok" if broken is None else "degraded"
    return HubHealth(status, hub, True, worker is not None, worker_id, owned, broken)


def _worker_problem(worker: Worker) -> str | None:
    if worker.healthy:
        return None
    if worker.failure is not None:
        return f"the worker cannot go on: {worker.failure!r}"
    return "the worker waits for the store to take its writes"


async def list_workers(backend: Backend, clock: Clock) -> list[WorkerStatus]:
    """The workers that live, by id, each with the partitions it holds. Raises BackendUnavailable."""
    now = clock()
    topology = await backend.topology(now)
    owned = _partitions_by_owner(topology, now)
    return [
        WorkerStatus(info.worker_id, info.host, info.pid, to_datetime(info.started_at), tuple(owned[info.worker_id]))
        for info in sorted(topology.workers, key=lambda info: info.worker_id)
    ]


def _partitions_by_owner(topology: Topology, now: int) -> defaultdict[str, list[int]]:
    owned: defaultdict[str, list[int]] = defaultdict(list)
    for lease in topology.leases:
        if lease.owner is not None and lease.expires_at > now:
            owned[lease.owner].append(lease.partition)
    return owned
