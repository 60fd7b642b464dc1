"""Workers and partition leases: guarded updates, a few commands for all partitions at once."""

from __future__ import annotations

from collections.abc import Collection

from durable.backend import PartitionLease, Topology, WorkerInfo
from durable_mongodb import _driver
from durable_mongodb._documents import worker_from_document, worker_to_document
from durable_mongodb._driver import plain

_FREE = {"owner": None, "expires_at": 0}


async def create_partitions(partitions: _driver.Collection, count: int) -> None:
    """Make sure that partitions 0 to ``count - 1`` are there; new ones are free."""
    await partitions.insert([{"_id": number, **_FREE} for number in range(count)])


async def heartbeat(
    workers: _driver.Collection, partitions: _driver.Collection, worker: WorkerInfo, now: int, ttl: int
) -> Topology:
    """See :meth:`durable.backend.Backend.heartbeat`."""
    document = worker_to_document(worker, now + ttl)
    await workers.update({"_id": worker.worker_id}, {"$set": document}, upsert=True)
    await partitions.update({"owner": {"$eq": worker.worker_id}}, {"$set": {"expires_at": now + ttl}})
    return await topology(workers, partitions, now)


async def topology(workers: _driver.Collection, partitions: _driver.Collection, now: int) -> Topology:
    """See :meth:`durable.backend.Backend.topology`."""
    alive = await workers.find({"expires_at": {"$gt": now}}, sort=[("_id", 1)])
    leases = [plain(lease) for lease in await partitions.find({}, sort=[("_id", 1)])]
    return Topology(
        tuple(worker_from_document(found) for found in alive),
        tuple(PartitionLease(lease["_id"], lease["owner"], lease["expires_at"]) for lease in leases),
    )


async def acquire(
    partitions: _driver.Collection, worker_id: str, wanted: Collection[int], now: int, ttl: int, dead: Collection[str]
) -> list[int]:
    """See :meth:`durable.backend.Backend.acquire_partitions`. What was won is read back: one of two racers finds it."""
    among = {"_id": {"$in": sorted(wanted)}}
    to_be_had = [
        {"owner": {"$in": [None, worker_id, *dead]}},
        {"expires_at": {"$lte": now}},
    ]
    await partitions.update(among | {"$or": to_be_had}, {"$set": {"owner": worker_id, "expires_at": now + ttl}})
    won = await partitions.find(among | {"owner": {"$eq": worker_id}}, fields=["_id"], sort=[("_id", 1)])
    return [int(lease["_id"]) for lease in won]


async def release(partitions: _driver.Collection, worker_id: str, given: Collection[int]) -> None:
    """See :meth:`durable.backend.Backend.release_partitions`."""
    where = {"_id": {"$in": sorted(given)}, "owner": {"$eq": worker_id}}
    await partitions.update(where, {"$set": _FREE})


async def remove_worker(workers: _driver.Collection, partitions: _driver.Collection, worker_id: str) -> None:
    """See :meth:`durable.backend.Backend.remove_worker`."""
    await partitions.update({"owner": {"$eq": worker_id}}, {"$set": _FREE})
    await workers.delete({"_id": {"$eq": worker_id}})
