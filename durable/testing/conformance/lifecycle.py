"""Promises of ``open`` and ``close``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from durable.backend import Annotation, Backend, BackendClosed, Query
from durable.testing.conformance.builders import (
    SECOND,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    new_record,
    new_worker,
    record_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures, Handles

OPERATIONS: Mapping[str, Callable[[Backend], Awaitable[object]]] = {
    "create_instances": lambda backend: backend.create_instances([new_record("a")]),
    "commit": lambda backend: backend.commit([Instance("a").turn()]),
    "settle": lambda backend: backend.settle([Instance("a").turn()]),
    "load": lambda backend: backend.load("a", "e1"),
    "get": lambda backend: backend.get(["a"]),
    "query": lambda backend: backend.query(Query()),
    "count": lambda backend: backend.count(Query(), "status"),
    "annotate": lambda backend: backend.annotate([Annotation("a", 0, "stuck", 1)]),
    "purge": lambda backend: backend.purge(["a"]),
    "set_hold": lambda backend: backend.set_hold("a", "why"),
    "expired": lambda backend: backend.expired(T0, 1),
    "send": lambda backend: backend.send([new_message("m", "a")]),
    "receive": lambda backend: backend.receive(["a"]),
    "consume": lambda backend: backend.consume([new_message("m", "a")], T0),
    "runnable": lambda backend: backend.runnable([0], T0),
    "watch": lambda backend: _first_hint(backend),
    "heartbeat": lambda backend: backend.heartbeat(new_worker("w"), T0, SECOND),
    "topology": lambda backend: backend.topology(T0),
    "acquire_partitions": lambda backend: backend.acquire_partitions("w", [0], T0, SECOND),
    "release_partitions": lambda backend: backend.release_partitions("w", [0]),
    "remove_worker": lambda backend: backend.remove_worker("w"),
    "put_payloads": lambda backend: backend.put_payloads("a", {"k": b"v"}),
    "get_payloads": lambda backend: backend.get_payloads("a", ["k"]),
    "sweep": lambda backend: backend.sweep(T0),
}


async def _first_hint(backend: Backend) -> object:
    async with asyncio.timeout(15):  # one that does not refuse waits for a hint
        return await anext(backend.watch())


async def _accepted_operations(backend: Backend) -> list[str]:
    accepted = []
    for operation, call in OPERATIONS.items():
        try:
            await call(backend)
        except BackendClosed:
            continue
        accepted.append(operation)
    return accepted


class LifecycleConformance(ConformanceFixtures):
    async def test_the_first_opener_fixes_the_partition_count(self, handles: Handles) -> None:
        first, second = handles.new(), handles.new()
        assert await first.open(5) == 5
        assert await second.open(32) == 5
        topology = await second.heartbeat(new_worker("w"), T0, SECOND)
        assert sorted(lease.partition for lease in topology.leases) == [0, 1, 2, 3, 4]

    async def test_concurrent_openers_of_a_new_store_agree(self, handles: Handles) -> None:
        backends = [handles.new() for _ in range(5)]
        counts = await asyncio.gather(*(backend.open(4 + number) for number, backend in enumerate(backends)))
        assert len(set(counts)) == 1
        assert counts[0] in range(4, 9)
        assert await handles.new().open(99) == counts[0]

    async def test_everything_survives_close_and_reopen(self, handles: Handles) -> None:
        backend = await handles.open(7)
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        await apply(backend, commit)
        await backend.send([new_message("m", "a")])
        await backend.put_payloads("a", {"k": b"v"})
        await backend.acquire_partitions("w", [3], T0, SECOND)
        await backend.close()

        again = handles.new()
        assert await again.open(1) == 7
        assert await record_of(again, "a") == instance.record
        assert list(await again.load("a", "e1")) == [commit.checkpoint]
        assert await inbox_of(again, "a") == ["m"]
        assert await again.get_payloads("a", ["k"]) == {"k": b"v"}
        assert not await again.acquire_partitions("v", [3], T0, SECOND)

    async def test_an_unsettled_commit_survives_close_and_reopen(self, handles: Handles) -> None:
        backend = await handles.open()
        instance = Instance("a")
        commit = instance.turn(create=True)
        await backend.commit([commit])
        await backend.close()

        again = await handles.open()
        assert list(await again.load("a", "e1")) == [commit.checkpoint]
        assert (await record_of(again, "a")).execution_id == "e1"

    async def test_close_is_idempotent(self, backend: Backend, other: Backend) -> None:
        await backend.close()
        await backend.close()
        await create(other, Instance("a"))  # others do not notice

    async def test_close_before_open_is_harmless(self, handles: Handles) -> None:
        await handles.new().close()

    async def test_every_operation_before_open_is_refused(self, handles: Handles) -> None:
        assert await _accepted_operations(handles.new()) == []

    async def test_every_operation_after_close_is_refused(self, backend: Backend) -> None:
        await backend.close()
        assert await _accepted_operations(backend) == []

    async def test_empty_batches_are_answered(self, backend: Backend) -> None:
        assert not await backend.create_instances([])
        assert not await backend.commit([])
        await backend.settle([])
        assert not await backend.get([])
        await backend.annotate([])
        assert await backend.purge([]) == 0
        await backend.send([])
        assert not await backend.receive([])
        await backend.consume([], T0)
        assert not await backend.runnable([], T0)
        assert not await backend.acquire_partitions("w", [], T0, SECOND)
        await backend.release_partitions("w", [])
        await backend.put_payloads("a", {})
        assert await backend.get_payloads("a", []) == {}
