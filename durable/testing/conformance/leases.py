"""Promises of the leases: one owner a partition, and none for longer than it lives."""

from __future__ import annotations

import asyncio

from durable.backend import Backend, Topology
from durable.testing.conformance.builders import HOSTILE_IDS, PARTITIONS, SECOND, T0, new_worker
from durable.testing.conformance.fixtures import ConformanceFixtures

TTL = 10 * SECOND


def _held(topology: Topology) -> dict[int, tuple[str, int]]:
    return {one.partition: (one.owner, one.expires_at) for one in topology.leases if one.owner is not None}


def _alive(topology: Topology) -> set[str]:
    return {worker.worker_id for worker in topology.workers}


class LeaseConformance(ConformanceFixtures):
    async def test_a_new_hub_has_all_its_partitions_and_no_owner(self, backend: Backend) -> None:
        topology = await backend.heartbeat(new_worker("a"), T0, TTL)
        assert topology.workers == (new_worker("a"),)
        assert sorted(lease.partition for lease in topology.leases) == list(range(PARTITIONS))
        assert _held(topology) == {}

    async def test_a_lease_excludes_others(self, backend: Backend, other: Backend) -> None:
        assert set(await backend.acquire_partitions("a", [0, 1, 2], T0, TTL)) == {0, 1, 2}
        assert set(await other.acquire_partitions("b", [1, 2, 3], T0 + 1, TTL)) == {3}
        topology = await other.heartbeat(new_worker("b"), T0, TTL)
        assert {partition: owner for partition, (owner, _) in _held(topology).items()} == {
            0: "a",
            1: "a",
            2: "a",
            3: "b",
        }

    async def test_a_lease_of_ones_own_is_given_again(self, backend: Backend) -> None:
        await backend.acquire_partitions("a", [0], T0, TTL)
        assert set(await backend.acquire_partitions("a", [0, 1], T0 + 1, TTL)) == {0, 1}

    async def test_an_expired_lease_can_be_taken(self, backend: Backend, other: Backend) -> None:
        await backend.acquire_partitions("a", [0, 1], T0, TTL)
        assert not await other.acquire_partitions("b", [0], T0 + TTL - 1, TTL)
        assert set(await other.acquire_partitions("b", [0], T0 + TTL + 1, TTL)) == {0}
        assert set(await backend.acquire_partitions("a", [0, 1], T0 + TTL + 2, TTL)) == {1}

    async def test_a_lease_of_a_dead_owner_can_be_taken_at_once(self, backend: Backend, other: Backend) -> None:
        await backend.acquire_partitions("a", [0], T0, TTL)
        await backend.acquire_partitions("b", [1], T0, TTL)
        assert set(await other.acquire_partitions("c", [0, 1, 2], T0 + 1, TTL, dead={"a", "x"})) == {0, 2}

    async def test_of_concurrent_workers_one_gets_each_partition(self, backend: Backend, other: Backend) -> None:
        every = range(PARTITIONS)
        for round_number in range(3):
            now = T0 + round_number * 2 * TTL
            won = await asyncio.gather(
                backend.acquire_partitions("a", every, now, TTL),
                other.acquire_partitions("b", every[::-1], now, TTL),
                backend.acquire_partitions("c", every, now, TTL),
            )
            assert sorted(partition for part in won for partition in part) == list(every)
            topology = await backend.heartbeat(new_worker("watcher"), now, TTL)
            owners = {partition: owner for owner, part in zip("abc", won, strict=True) for partition in part}
            assert {partition: owner for partition, (owner, _) in _held(topology).items()} == owners

    async def test_a_heartbeat_extends_the_leases_of_its_worker(self, backend: Backend, other: Backend) -> None:
        await backend.acquire_partitions("a", [0, 1], T0, TTL)
        await backend.acquire_partitions("b", [2], T0, TTL)
        topology = await backend.heartbeat(new_worker("a"), T0 + TTL - 1, TTL)
        extended = T0 + 2 * TTL - 1
        assert _held(topology) == {0: ("a", extended), 1: ("a", extended), 2: ("b", T0 + TTL)}
        assert set(await other.acquire_partitions("c", [0, 1, 2], T0 + TTL + 1, TTL)) == {2}

    async def test_the_topology_lists_those_who_live(self, backend: Backend, other: Backend) -> None:
        await backend.heartbeat(new_worker("a"), T0, TTL)
        assert _alive(await other.heartbeat(new_worker("b"), T0 + TTL - 1, TTL)) == {"a", "b"}
        topology = await other.heartbeat(new_worker("b"), T0 + TTL + 1, TTL)
        assert topology.workers == (new_worker("b"),)
        assert _alive(await backend.heartbeat(new_worker("a"), T0 + TTL + 2, TTL)) == {"a", "b"}

    async def test_who_looks_at_the_topology_changes_nothing(self, backend: Backend, other: Backend) -> None:
        assert (await other.topology(T0)).workers == ()
        seen = await backend.heartbeat(new_worker("a"), T0, TTL)
        assert await other.topology(T0 + TTL - 1) == seen
        await backend.acquire_partitions("a", [0, 2], T0 + 1, TTL)
        assert _held(await other.topology(T0 + 2)) == {0: ("a", T0 + 1 + TTL), 2: ("a", T0 + 1 + TTL)}
        gone = await other.topology(T0 + TTL + 1)
        assert (gone.workers, len(gone.leases), len(_held(gone))) == ((), PARTITIONS, 2)

    async def test_a_released_partition_is_free_at_once(self, backend: Backend, other: Backend) -> None:
        await backend.acquire_partitions("a", [0, 1, 2], T0, TTL)
        await other.acquire_partitions("b", [3], T0, TTL)
        await backend.release_partitions("a", [0, 1, 3, 4])
        assert set(await other.acquire_partitions("c", range(5), T0 + 1, TTL)) == {0, 1, 4}

    async def test_a_stale_owner_releases_nothing(self, backend: Backend, other: Backend) -> None:
        await backend.acquire_partitions("a", [0], T0, TTL)
        await other.acquire_partitions("b", [0], T0 + TTL + 1, TTL)
        await backend.release_partitions("a", [0])
        await backend.remove_worker("a")
        topology = await backend.heartbeat(new_worker("a"), T0 + TTL + 2, TTL)
        assert _held(topology) == {0: ("b", T0 + 2 * TTL + 1)}

    async def test_a_removed_worker_leaves_nothing_behind(self, backend: Backend, other: Backend) -> None:
        await backend.heartbeat(new_worker("a"), T0, TTL)
        await backend.acquire_partitions("a", [0, 1], T0, TTL)
        await backend.remove_worker("a")
        await backend.remove_worker("a")
        await backend.remove_worker("nobody")
        topology = await other.heartbeat(new_worker("b"), T0 + 1, TTL)
        assert (_alive(topology), _held(topology)) == ({"b"}, {})
        assert set(await other.acquire_partitions("b", [0, 1], T0 + 1, TTL)) == {0, 1}

    async def test_hostile_worker_ids_are_only_text(self, backend: Backend) -> None:
        for worker_id in HOSTILE_IDS:
            await backend.heartbeat(new_worker(worker_id), T0, TTL)
        await backend.acquire_partitions("$where", [0], T0, TTL)
        await backend.acquire_partitions("a", [1], T0, TTL)
        for worker_id in ("%", "_", '{"$gt": ""}', "^a.*"):
            await backend.release_partitions(worker_id, [0, 1])
            await backend.remove_worker(worker_id)
        topology = await backend.heartbeat(new_worker("a"), T0, TTL)
        assert _held(topology) == {0: ("$where", T0 + TTL), 1: ("a", T0 + TTL)}
        assert _alive(topology) == {*HOSTILE_IDS} - {"%", "_", '{"$gt": ""}', "^a.*"}
