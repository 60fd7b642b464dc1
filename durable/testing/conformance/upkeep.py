"""Promises of ``purge`` (R6), payloads and ``sweep``."""

from __future__ import annotations

from durable.backend import Backend, Query
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    HOSTILE_IDS,
    LATE,
    SECOND,
    T0,
    Instance,
    apply,
    big_events,
    create,
    inbox_of,
    new_message,
    new_worker,
    query_all,
    record_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures

DAY = 86_400 * SECOND


class UpkeepConformance(ConformanceFixtures):
    async def test_purge_takes_terminal_instances_only(self, backend: Backend, other: Backend) -> None:
        pending, running, ended, failed = (Instance(name) for name in ("pending", "running", "ended", "failed"))
        await create(backend, pending, running, ended, failed)
        await apply(backend, running.turn(), ended.last_turn(), failed.last_turn())
        assert await other.purge(["pending", "running", "ended", "nobody", "ended"]) == 1
        assert list(await backend.get(["pending", "running", "ended", "failed"])) == [
            pending.record,
            running.record,
            None,
            failed.record,
        ]
        assert len(await backend.load("running", "e1")) == 1
        assert await backend.purge(["ended"]) == 0

    async def test_purge_takes_each_terminal_status(self, backend: Backend) -> None:
        instances = {status: Instance(status.value) for status in RuntimeStatus}
        await create(backend, *instances.values())
        await apply(backend, *(instance.turn(status=status) for status, instance in instances.items()))
        assert await backend.purge([status.value for status in RuntimeStatus]) == 4
        assert {record.instance_id for record in await query_all(backend, Query())} == {
            "Pending",
            "Running",
            "Suspended",
        }

    async def test_purge_leaves_nothing_of_an_instance(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await backend.send([new_message("m1", "a"), new_message("m2", "a")])
        await backend.put_payloads("a", {"k": b"v"})
        first = instance.turn(consumed=["m1"])
        instance.continue_as("e1.1")
        second, last = instance.turn(events=big_events(500_000, 40)), instance.last_turn()
        for commit in (first, second, last):
            await apply(backend, commit)
        assert await other.purge(["a"]) == 1
        assert list(await backend.get(["a"])) == [None]
        assert not await backend.load("a", "e1")
        assert not await backend.load("a", "e1.1")
        assert not await inbox_of(backend, "a")
        assert await backend.get_payloads("a", ["k"]) == {}
        assert await query_all(backend, Query()) == []
        assert await backend.sweep(LATE + DAY) == 0

    async def test_purge_leaves_others_alone(self, backend: Backend) -> None:
        instances = [Instance(name) for name in ("a", "a1", "A", "a ", "b")]
        await create(backend, *instances)
        await apply(backend, *(instance.last_turn() for instance in instances))
        for instance in instances:
            await backend.put_payloads(instance.instance_id, {"k": b"v"})
            await backend.send([new_message(f"m{instance.instance_id}", instance.instance_id)])
        assert await backend.purge(["a"]) == 1
        for instance in instances[1:]:
            instance_id = instance.instance_id
            assert await record_of(backend, instance_id) == instance.record
            assert len(await backend.load(instance_id, "e1")) == 1
            assert await backend.get_payloads(instance_id, ["k"]) == {"k": b"v"}
            assert await inbox_of(backend, instance_id) == [f"m{instance_id}"]

    async def test_a_purged_id_can_be_used_again(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await apply(backend, instance.last_turn())
        await backend.purge(["a"])
        again = Instance("a", input="[3]")
        await create(backend, again)
        commit = again.turn(token="token-b")
        await apply(backend, commit)
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]
        assert await record_of(backend, "a") == again.record

    async def test_many_are_purged_at_once(self, backend: Backend) -> None:
        instances = [Instance(f"i{number}") for number in range(50)]
        await create(backend, *instances)
        await apply(backend, *(instance.last_turn() for instance in instances))
        assert await backend.purge([instance.instance_id for instance in instances]) == 50
        assert await query_all(backend, Query()) == []

    # --- payloads

    async def test_payloads_are_kept_by_instance_and_key(self, backend: Backend, other: Backend) -> None:
        blob = bytes(range(256)) * 20_000
        await backend.put_payloads("a", {"k1": b"", "k2": blob})
        await backend.put_payloads("b", {"k1": b"b"})
        await backend.put_payloads("a", {"k1": b"", "k3": b"3"})
        assert await other.get_payloads("a", ["k1", "k2", "k3", "k4"]) == {"k1": b"", "k2": blob, "k3": b"3"}
        assert await other.get_payloads("b", ["k1", "k2"]) == {"k1": b"b"}
        assert await other.get_payloads("nobody", ["k1"]) == {}

    async def test_hostile_payload_keys_are_only_text(self, backend: Backend) -> None:
        payloads = {text: str(number).encode() for number, text in enumerate(HOSTILE_IDS)}
        await backend.put_payloads("a", payloads)
        assert await backend.get_payloads("a", list(payloads)) == payloads
        for key, value in payloads.items():
            assert await backend.get_payloads("a", [key]) == {key: value}

    # --- sweep

    async def test_sweep_deletes_old_tombstones_only(self, backend: Backend, other: Backend) -> None:
        old, new = Instance("old"), Instance("new")
        await create(backend, old, new)
        messages = [new_message(f"{one}-{number}", one) for one in ("old", "new") for number in range(3)]
        await backend.send(messages)
        await apply(backend, old.turn(consumed=["old-0", "old-1"]))
        await apply(backend, new.turn(consumed=["new-0"], updated_at=T0 + 8 * DAY))
        assert await other.sweep(T0 - DAY) == 0
        assert await other.sweep(T0 + DAY) == 2
        assert await other.sweep(T0 + DAY) == 0
        await backend.send([messages[3]])  # its tombstone stands
        assert await inbox_of(backend, "old", "new") == ["new-1", "new-2", "old-2"]

    async def test_sweep_deletes_expired_workers(self, backend: Backend) -> None:
        await backend.heartbeat(new_worker("gone"), T0, SECOND)
        await backend.heartbeat(new_worker("here"), T0, 2 * DAY)
        assert await backend.sweep(T0 - DAY) == 0
        assert await backend.sweep(T0 + DAY) == 1
        topology = await backend.heartbeat(new_worker("new"), T0, SECOND)
        assert {worker.worker_id for worker in topology.workers} == {"here", "new"}
