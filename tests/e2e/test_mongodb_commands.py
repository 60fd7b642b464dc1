"""How many write commands the engine sends to MongoDB: a count, so it holds on any server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pymongo import monitoring

from durable import OrchestrationContext, TaskHub

WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})


class Counter(monitoring.CommandListener):
    """Counts write commands to instances, history and inbox; leases and heartbeats go with time, not with work."""

    def __init__(self) -> None:
        self.counting = False
        self.collections: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.counting and event.command_name in WRITES:
            collection = str(event.command[event.command_name])
            if not collection.endswith((".partitions", ".workers")):
                self.collections.append(collection)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    counter = Counter()
    listeners = monitoring._LISTENERS  # restored afterwards: pymongo has no call to take a listener back
    before = monitoring._Listeners(*[list(each) for each in listeners])
    monitoring.register(counter)
    yield counter
    monkeypatch.setattr(monitoring, "_LISTENERS", before)


@pytest.mark.mongodb
async def test_write_commands_of_a_hello_sequence(mongodb_database_url: str, counter: Counter) -> None:
    hub = TaskHub(mongodb_database_url)

    @hub.activity
    async def say_hello(city: str) -> str:
        return f"Hello {city}!"

    @hub.orchestrator
    async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
        return [await say_hello(city) for city in cities]

    async def one() -> None:
        handle = await hub.start(hello_sequence, ["Tokyo", "Seattle", "London"])
        assert len(await handle.result(60)) == 3

    counts = []
    async with hub.worker():
        await one()
        for _ in range(5):
            await hub._worker._committer.drain()  # type: ignore[union-attr]
            counter.collections.clear()
            counter.counting = True
            await one()
            await hub._worker._committer.drain()  # type: ignore[union-attr]
            counter.counting = False
            counts.append(len(counter.collections))
        counter.collections.clear()
        counter.counting = True
        await asyncio.gather(*[one() for _ in range(200)])
        await hub._worker._committer.drain()  # type: ignore[union-attr]
        counter.counting = False
    # One to create it, four checkpoints, one to settle. (A server slower than half a second each needs one more.)
    assert min(counts) <= 6, counts
    assert len(counter.collections) < 200


@pytest.mark.mongodb
async def test_write_commands_of_a_client_that_is_asked_for_much_at_once(
    mongodb_database_url: str, counter: Counter
) -> None:
    hub = TaskHub(mongodb_database_url)

    @hub.orchestrator
    async def listener(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("word", str)

    async with hub:
        counter.counting = True
        handles = await asyncio.gather(*[hub.start(listener) for _ in range(100)])
        await asyncio.gather(*[handle.raise_event("word", "x") for handle in handles])
        counter.counting = False
        assert sorted(set(counter.collections)) == ["default.inbox", "default.instances"]
        assert len(counter.collections) <= 4
    async with hub.worker():
        assert await asyncio.gather(*[handle.result(60) for handle in handles]) == ["x"] * 100
