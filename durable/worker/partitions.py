"""Partitions and leases: which instances this worker should work on.

Rule of this file: a lease says who *should* work; only the unique insert of a checkpoint says who
*did*. So clocks, late heartbeats and stale owners cost time, never correctness. Workers converge
on an even share: sorted by id, the first get one partition more where it does not divide evenly.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4
from zlib import crc32

from durable.backend import Backend, BackendUnavailable, Topology, WorkerInfo
from durable.clock import Clock
from durable.instrument import Instrument

_RETRY = 0.5


class Partitions:
    """Keeps this worker's leases, takes a fair share, and tells what was gained and lost."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        lease_time: float,
        *,
        gained: Callable[[frozenset[int]], None],
        lost: Callable[[frozenset[int]], None],
        hand_over: Callable[[frozenset[int]], Awaitable[None]],
        instrument: Instrument | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._ttl = int(lease_time * 1_000_000)
        self._interval = lease_time / 4
        self._gained = gained
        self._lost = lost
        self._hand_over = hand_over
        self._instrument = instrument
        self.info = _describe_this_process(clock())
        self.owned: frozenset[int] = frozenset()
        self._leaving: frozenset[int] = frozenset()
        self._handing_over: asyncio.Task[None] | None = None
        self.available = True

    async def run(self) -> None:
        """Heartbeat and rebalance until cancelled. A store that does not answer is waited for."""
        while True:
            try:
                await self.beat()
            except BackendUnavailable:
                self.available = False
                await asyncio.sleep(min(_RETRY, self._interval))
            else:
                self.available = True
                await asyncio.sleep(self._interval)

    async def beat(self) -> None:
        """One heartbeat: renew, learn what was lost, take or give up partitions towards an even share."""
        topology = await self._backend.heartbeat(self.info, self._clock(), self._ttl)
        mine = frozenset(lease.partition for lease in topology.leases if lease.owner == self.info.worker_id)
        if self._instrument is not None and (taken := self.owned - mine - self._leaving):
            self._instrument.lost(taken)
        self._lose(self.owned - mine)
        share = self._share(topology)
        if len(mine) < share:
            mine |= await self._take(topology, share - len(mine))
        elif len(mine - self._leaving) > share and self._handing_over is None:
            surplus = frozenset(sorted(mine)[share:])
            self._leaving = surplus
            self._handing_over = asyncio.get_running_loop().create_task(self._give_up(surplus))
        self._gain(mine - self.owned)

    async def release(self) -> None:
        """Give up everything at once and leave the hub (graceful stop, after the work is handed over)."""
        if self._handing_over is not None:
            self._handing_over.cancel()
            await asyncio.wait([self._handing_over])
        self.owned = frozenset()
        await self._backend.remove_worker(self.info.worker_id)

    def abandon(self) -> None:
        """Stop what is under way, and leave everything as it is in the store."""
        if self._handing_over is not None:
            self._handing_over.cancel()
        self.owned = frozenset()

    def _share(self, topology: Topology) -> int:
        names = sorted({worker.worker_id for worker in topology.workers} - set(self._dead(topology)))
        rank = names.index(self.info.worker_id)
        whole, rest = divmod(len(topology.leases), len(names))
        return whole + (rank < rest)

    async def _take(self, topology: Topology, wanted: int) -> frozenset[int]:
        now, dead = self._clock(), self._dead(topology)
        free = [
            lease.partition
            for lease in topology.leases
            if lease.owner is None or lease.expires_at <= now or lease.owner in dead
        ]
        if not free:
            return frozenset()
        # Start at a place of one's own, so that workers that start together do not race for the same.
        start = crc32(self.info.worker_id.encode()) % len(free)
        candidates = (free[start:] + free[:start])[:wanted]
        taken = await self._backend.acquire_partitions(self.info.worker_id, candidates, now, self._ttl, dead=dead)
        return frozenset(taken)

    def _gain(self, partitions: frozenset[int]) -> None:
        if partitions:
            self.owned |= partitions
            if self._instrument is not None:
                self._instrument.gained(partitions)
            self._gained(partitions)

    async def _give_up(self, surplus: frozenset[int]) -> None:
        try:
            await self._hand_over(surplus)
            await self._backend.release_partitions(self.info.worker_id, surplus)
        except BackendUnavailable:
            pass  # in doubt: if they are still ours, the next heartbeat gives them back, and their work starts afresh
        finally:
            self._lose(surplus)
            self._leaving = frozenset()
            self._handing_over = None

    def _lose(self, partitions: frozenset[int]) -> None:
        if partitions:
            self.owned -= partitions
            self._lost(partitions)

    def _dead(self, topology: Topology) -> list[str]:
        """Workers of this very machine whose process is gone: no need to wait for their leases to expire."""
        return [
            worker.worker_id
            for worker in topology.workers
            if worker.host == self.info.host and _process_started(worker.pid) != worker.process_started
        ]


def _describe_this_process(now: int) -> WorkerInfo:
    pid = os.getpid()
    name = f"{socket.gethostname()}-{pid}-{uuid4().hex[:8]}"
    return WorkerInfo(name, _host(), pid, _process_started(pid), now)


def _host() -> str:
    """Names the scope in which a pid means something: machine, boot and pid namespace. Unique where unknown."""
    if not sys.platform.startswith("linux"):
        return f"{socket.gethostname()}/{uuid4().hex}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}/{uuid4().hex}"


def _process_started(pid: int) -> int:
    """The start time of a process in clock ticks since boot; -1 when there is none (Linux; else always -1)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    after_name = stat.rpartition(")")[2].split()
    return -1 if after_name[0] == "Z" else int(after_name[19])
