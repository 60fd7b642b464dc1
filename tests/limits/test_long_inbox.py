"""More messages than are read ahead: all arrive, once and in order, and memory holds a part of them at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from durable import EntityId, OrchestrationContext, OrchestrationTerminatedError, Registry, RuntimeStatus, TaskHub
from durable.backend import Message
from durable.core.events import EntityOperationSignaled, EventRaised, ExecutionTerminated
from durable.payloads import encode
from durable.testing.memory import MemoryBackend
from durable.worker import mailboxes
from durable.worker.live import MAX_ARRIVED
from durable.worker.mailboxes import MAX_MAILBOX
from durable_sqlite import SqliteBackend
from tests.e2e.waiting import until

DEADLINE = 120
MANY = 20_000
FEW = 10
"""Messages read ahead in the tests that are about the order in which things happen."""

registry = Registry()


class Watched:
    """Notes how many messages were read at once."""

    most = 0

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        found: Sequence[Message] = await super().receive(instance_ids, limit)  # type: ignore[misc]
        self.most = max(self.most, len(found))
        return found


class WatchedMemory(Watched, MemoryBackend):
    pass


class WatchedSqlite(Watched, SqliteBackend):
    pass


@registry.orchestrator
async def takes(ctx: OrchestrationContext, count: int) -> int:
    """Returns how many came before the first that was out of order."""
    for number in range(count):
        if await ctx.wait_for_external_event("number", int) != number:
            return number
    return count


@registry.orchestrator
async def takes_afresh(ctx: OrchestrationContext, count: int, number: int = 0) -> int:
    """As ``takes``, seven in each execution."""
    for _ in range(7):
        if number == count or await ctx.wait_for_external_event("number", int) != number:
            return number
        number += 1
    ctx.continue_as_new(count, number)


@registry.orchestrator
async def breaks(ctx: OrchestrationContext) -> None:
    """Does what an orchestrator must not do, as soon as something comes."""
    await ctx.wait_for_external_event("number", int)
    asyncio.get_running_loop().run_in_executor(None, print)


@registry.orchestrator
async def waits(ctx: OrchestrationContext) -> str:
    return await ctx.wait_for_external_event("go", str)


@registry.entity
class Ledger:
    count: int = 0
    in_order: bool = True

    def put(self, number: int) -> None:
        self.in_order = self.in_order and number == self.count
        self.count += 1

    def seen(self) -> tuple[int, bool]:
        return self.count, self.in_order


LEDGER = EntityId("ledger", "main")


@registry.orchestrator
async def holds_the_ledger(ctx: OrchestrationContext) -> int:
    async with ctx.lock(LEDGER):
        await ctx.wait_for_external_event("go", str)
        count, _ = await ctx.call_entity(Ledger.seen, "main")
    return int(count)


@pytest.fixture
def reads_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few messages are read ahead, so that few make a long inbox."""
    monkeypatch.setattr(mailboxes, "MAX_MAILBOX", FEW)


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> WatchedMemory | WatchedSqlite:
    """An empty store that notes what is read at once."""
    if request.param == "memory":
        return WatchedMemory()
    return WatchedSqlite.from_url(f"sqlite:///{tmp_path / 'hub.db'}", "default")


def make_hub(store: Any) -> TaskHub:
    hub = TaskHub(store)
    hub.include(registry)
    return hub


async def pour(hub: TaskHub, instance_id: str, numbers: range, *events: Any) -> None:
    """Store events of these numbers for an instance, and then ``events``, without telling any worker."""
    assert hub._client is not None
    client = hub._client

    def number_event(number: int) -> Any:
        if instance_id.startswith("@"):
            return lambda now, id_: EntityOperationSignaled(now, 0, instance_id, "put", encode([number], ""), None, id_)
        return lambda now, id_: EventRaised(now, "number", encode(number, ""), id_)

    makers = [*map(number_event, numbers), *events]
    messages = [client.new_message(instance_id, make) for make in makers]
    await client.backend.send(messages)


async def seen(hub: TaskHub) -> Any:
    return await asyncio.wait_for(hub.call_entity(Ledger.seen, "main"), DEADLINE)


# --- many


async def test_many_events_of_one_instance(
    backend: WatchedMemory | WatchedSqlite, caplog: pytest.LogCaptureFixture
) -> None:
    hub = make_hub(backend)
    async with hub:
        await hub.start(takes, MANY, instance_id="takes")
        await pour(hub, "takes", range(MANY))
        async with hub.worker():
            assert await hub.get("takes").result(DEADLINE) == MANY
    assert backend.most <= MAX_MAILBOX + MAX_ARRIVED
    told = [record for record in caplog.records if "messages wait for instance" in record.msg]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "'takes'" in told[0].getMessage()


async def test_many_signals_of_one_entity(backend: WatchedMemory | WatchedSqlite) -> None:
    hub = make_hub(backend)
    async with hub:
        await pour(hub, str(LEDGER), range(MANY))
        async with hub.worker():
            assert await seen(hub) == (MANY, True)  # the call comes after the signals
    assert backend.most <= MAX_MAILBOX + 4 * MAX_ARRIVED


# --- order


@pytest.mark.usefixtures("reads_few")
@pytest.mark.parametrize("orchestrator", [takes, takes_afresh], ids=lambda one: one.name)
async def test_what_comes_later_does_not_overtake_what_waits(hub_url: str, orchestrator: Any) -> None:
    hub = make_hub(hub_url)
    async with hub:
        await hub.start(orchestrator, 150, instance_id="takes")
        await pour(hub, "takes", range(95))
        async with hub.worker():
            for number in range(95, 150):
                await hub.get("takes").raise_event("number", number)
            assert await hub.get("takes").result(DEADLINE) == 150


@pytest.mark.usefixtures("reads_few")
async def test_signals_that_come_later_do_not_overtake_either(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub:
        await pour(hub, str(LEDGER), range(95))
        async with hub.worker():
            for number in range(95, 150):
                await hub.signal_entity(Ledger.put, "main", number)
            assert await seen(hub) == (150, True)


@pytest.mark.usefixtures("reads_few")
async def test_a_worker_that_stops_leaves_the_rest_to_the_next(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub:
        await hub.start(takes, 150, instance_id="takes")
        await pour(hub, "takes", range(95))
        async with hub.worker():
            await hub.get("takes").wait_for_start(DEADLINE)
        await pour(hub, "takes", range(95, 150))
        async with hub.worker():
            assert await hub.get("takes").result(DEADLINE) == 150


# --- what must get through


@pytest.mark.usefixtures("reads_few")
async def test_a_critical_section_gets_through_the_requests_that_wait_for_it(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(holds_the_ledger)
        await until(handle.history, lambda history: any(type(e).__name__ == "EntityLockGranted" for e in history))
        for number in range(75):
            await hub.signal_entity(Ledger.put, "main", number)
        await handle.raise_event("go", "")
        assert await handle.result(DEADLINE) == 0
        await until(lambda: seen(hub), lambda count: count == (75, True))


@pytest.mark.usefixtures("reads_few")
async def test_a_resumption_gets_through(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(takes, 60)
        await handle.wait_for_start(DEADLINE)
        await handle.suspend()
        await until(handle.status, lambda status: status.runtime_status is RuntimeStatus.SUSPENDED)
        for number in range(60):
            await handle.raise_event("number", number)
        await handle.resume()
        assert await handle.result(DEADLINE) == 60


@pytest.mark.usefixtures("reads_few")
@pytest.mark.parametrize("already_parked", [False, True])
async def test_what_ends_a_parked_instance_gets_through(hub_url: str, already_parked: bool) -> None:
    hub = make_hub(hub_url)
    async with hub:
        handle = await hub.start(breaks)
        if not already_parked:
            await pour(
                hub, handle.instance_id, range(60), lambda now, id_: ExecutionTerminated(now, '"enough"', True, id_)
            )
        async with hub.worker():
            if already_parked:
                await handle.raise_event("number", 0)
                await until(handle.status, lambda status: status.problem is not None)
                for number in range(60):
                    await handle.raise_event("number", number)
                await handle.terminate("enough")
            with pytest.raises(OrchestrationTerminatedError, match="enough"):
                await handle.result(DEADLINE)


@pytest.mark.usefixtures("reads_few")
async def test_what_nobody_takes_in_is_marked(backend: WatchedMemory | WatchedSqlite) -> None:
    hub = make_hub(backend)
    async with hub:
        handle = await hub.start(waits)
        await pour(hub, handle.instance_id, range(25), lambda now, id_: EventRaised(now, "go", '"on"', id_))
        await pour(hub, handle.instance_id, range(25, 60))
        async with hub.worker():
            assert await handle.result(DEADLINE) == "on"

            async def left() -> int:
                return len(await backend.receive([handle.instance_id]))

            await until(left, lambda count: count == 0)
