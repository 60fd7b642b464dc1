"""Retention and legal hold: ended instances go when their time has come, unless they are held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    EntityId,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    Registry,
    Retain,
    RuntimeStatus,
    Settings,
    TaskHub,
)
from durable.testing.faults import Fault, FaultyBackend, Step, scripted_plan
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from durable.worker import retention
from tests.e2e.virtual_time import in_virtual_time, virtual_hub
from tests.e2e.waiting import until

DEADLINE = 30
KEEP = timedelta(minutes=5)
ROUND = 1.5 * retention.INTERVAL + 5
"""Seconds after which the purger has looked again."""


def define(registry: Registry, **options: Any) -> Any:
    """Orchestrators that end, or fail, as they are told."""

    @registry.orchestrator(**options)
    async def ends(ctx: OrchestrationContext, how: str = "well") -> str:
        if how == "badly":
            raise ValueError("no")
        return how

    return ends


async def run(hub: TaskHub, orchestrator: Any, *args: Any, instance_id: str) -> None:
    handle = await hub.start(orchestrator, *args, instance_id=instance_id)
    with suppress(OrchestrationFailedError):
        await handle.result(DEADLINE)


async def there(hub: TaskHub) -> set[str]:
    return {status.instance_id async for status in hub.query()}


# --- by the clock --------------------------------------------------------------------------------


def test_an_ended_instance_goes_whole_when_its_time_has_come() -> None:
    store = MemoryStore()

    async def main() -> None:
        hub = virtual_hub(MemoryBackend(store), retain=KEEP)
        ends = define(hub)
        async with hub.worker():
            await run(hub, ends, "x" * 300_000, instance_id="a")
            status = await hub.get("a").status()
            assert status.completed_at is not None
            assert status.purge_at == status.completed_at + KEEP
            assert store.payloads["a"]
            await asyncio.sleep(KEEP.total_seconds() - 1)
            assert await there(hub) == {"a"}
            await asyncio.sleep(1 + ROUND)
            assert await there(hub) == set()

    in_virtual_time(main)
    assert (store.records, store.history, store.payloads, store.messages) == ({}, {}, {}, {})


def test_nothing_goes_unless_asked() -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend())
        ends = define(hub)
        async with hub.worker():
            await run(hub, ends, instance_id="a")
            await asyncio.sleep(3 * ROUND)
            assert (await hub.get("a").status()).purge_at is None

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("hub_wide", "own", "gone"),
    [
        ({RuntimeStatus.COMPLETED: KEEP}, None, {"well"}),
        ({RuntimeStatus.FAILED: KEEP}, None, {"badly"}),
        ({"Completed": KEEP, RuntimeStatus.FAILED: 9 * KEEP}, None, {"well"}),
        (9 * KEEP, KEEP, {"well", "badly"}),
        (KEEP, 9 * KEEP, set()),
        (KEEP, {}, set()),
        (KEEP, {RuntimeStatus.FAILED: KEEP}, {"badly"}),
        (None, {RuntimeStatus.COMPLETED: KEEP}, {"well"}),
    ],
)
def test_retention_is_by_status_and_the_orchestrator_has_the_last_word(
    hub_wide: Any, own: Retain | None, gone: set[str]
) -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend(), retain=hub_wide)
        ends = define(hub, retain=own)
        async with hub.worker():
            for how in ("well", "badly"):
                await run(hub, ends, how, instance_id=how)
            await asyncio.sleep(KEEP.total_seconds() + ROUND)
            assert await there(hub) == {"well", "badly"} - gone

    in_virtual_time(main)


def test_children_follow_their_own_retention_and_entities_have_none() -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend(), retain=3 * KEEP)
        child = define(hub, retain=KEEP)

        @hub.entity
        class Counter:
            def __init__(self) -> None:
                self.value = 0

            def add(self) -> int:
                self.value += 1
                return self.value

        @hub.orchestrator
        async def parent(ctx: OrchestrationContext) -> str:
            await ctx.call_entity(EntityId("counter", "c"), "add")
            return str(await child.options(instance_id="child")())

        async with hub.worker():
            await run(hub, parent, instance_id="parent")
            assert await there(hub) == {"parent", "child"}
            await asyncio.sleep(KEEP.total_seconds() + ROUND)
            assert await there(hub) == {"parent"}
            await asyncio.sleep(2 * KEEP.total_seconds() + ROUND)
            assert await there(hub) == set()
            assert await hub.read_entity(EntityId("counter", "c")) is not None

    in_virtual_time(main)


def test_what_goes_on_does_not_go_and_its_time_begins_anew() -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend(), retain=KEEP)
        is_mended = False

        @hub.activity
        async def fragile() -> str:
            if not is_mended:
                raise ValueError("broken")
            return "mended"

        @hub.orchestrator
        async def waits(ctx: OrchestrationContext) -> str:
            result = await fragile()
            await asyncio.sleep(5 * KEEP.total_seconds())
            return result

        async with hub.worker():
            await run(hub, waits, instance_id="a")
            assert (await hub.get("a").status()).purge_at is not None
            is_mended = True
            await hub.get("a").rewind()
            status = await hub.get("a").status()
            assert (status.runtime_status, status.purge_at) == (RuntimeStatus.RUNNING, None)
            await asyncio.sleep(4 * KEEP.total_seconds())
            assert await there(hub) == {"a"}
            assert await hub.get("a").result() == "mended"
            await asyncio.sleep(KEEP.total_seconds() - 1)
            assert await there(hub) == {"a"}
            await asyncio.sleep(1 + ROUND)
            assert await there(hub) == set()

    in_virtual_time(main)


def test_many_go_in_one_round() -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend(), retain=KEEP)
        ends = define(hub)
        async with hub.worker():
            for number in range(350):
                await hub.start(ends, instance_id=f"i{number}")
            await asyncio.sleep(KEEP.total_seconds() - 1)
            assert len(await there(hub)) == 350
            await asyncio.sleep(1 + ROUND + 5)
            assert await there(hub) == set()

    in_virtual_time(main)


@pytest.mark.parametrize("operation", ["expired", "purge"])
@pytest.mark.parametrize("fault", [Fault.FAIL_BEFORE, Fault.FAIL_PARTWAY, Fault.FAIL_AFTER])
def test_a_store_that_fails_puts_it_off(operation: str, fault: Fault) -> None:
    async def main() -> None:
        backend = FaultyBackend(MemoryBackend(), scripted_plan({operation: [Step(fault)] * 2}))
        hub = virtual_hub(backend, retain=KEEP)
        ends = define(hub)
        async with hub.worker():
            for name in ("a", "b"):
                await run(hub, ends, instance_id=name)
            await asyncio.sleep(KEEP.total_seconds() + 3 * ROUND)
            assert await there(hub) == set()

    in_virtual_time(main)


class Counting(MemoryBackend):
    """A process's way to the store that counts how often it asks what has expired."""

    asked = 0

    async def expired(self, before: int, limit: int) -> Any:
        self.asked += 1
        return await super().expired(before, limit)


def test_one_worker_purges_for_all_and_another_takes_over() -> None:
    async def main() -> None:
        store = MemoryStore()
        backends = [Counting(store) for _ in range(3)]
        hubs = [virtual_hub(backend, retain=KEEP, partitions=6) for backend in backends]
        ends, *_ = [define(hub) for hub in hubs]
        workers = [hub.worker() for hub in hubs]
        for worker in workers:
            await worker.__aenter__()
        await asyncio.sleep(10 * ROUND)  # they share by now
        for backend in backends:
            backend.asked = 0
        for number in range(20):
            await run(hubs[0], ends, instance_id=f"i{number}")
        await asyncio.sleep(KEEP.total_seconds() + ROUND)
        assert await there(hubs[0]) == set()
        asked = [backend.asked for backend in backends]
        assert sorted(map(bool, asked)) == [False, False, True]
        first = asked.index(max(asked))
        await workers[first].__aexit__(None, None, None)
        rest = hubs[first - 1]
        await run(rest, "ends", instance_id="later")
        await asyncio.sleep(KEEP.total_seconds() + 3 * ROUND)
        assert await there(rest) == set()
        for number in {0, 1, 2} - {first}:
            await workers[number].__aexit__(None, None, None)

    in_virtual_time(main)


# --- hold ----------------------------------------------------------------------------------------


def test_a_hold_outlasts_the_retention() -> None:
    async def main() -> None:
        hub = virtual_hub(MemoryBackend(), retain=KEEP)
        ends = define(hub)
        async with hub.worker():
            for name in ("held", "free"):
                await run(hub, ends, instance_id=name)
            await hub.get("held").hold("case 7")
            await asyncio.sleep(4 * KEEP.total_seconds())
            assert await there(hub) == {"held"}
            await hub.get("held").release()
            await asyncio.sleep(ROUND)
            assert await there(hub) == set()

    in_virtual_time(main)


async def test_a_hold_is_shown_and_kept_while_the_instance_runs(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext) -> str:
        first = await ctx.wait_for_external_event("go", str)
        ctx.set_custom_status(first)
        return await ctx.wait_for_external_event("go", str)

    async with hub.worker():
        handle = await hub.start(waits, instance_id="a")
        assert (await handle.status()).hold is None
        await handle.hold("one")
        await handle.hold("case 7")
        assert (await handle.status()).hold == "case 7"
        await handle.raise_event("go", "first")
        await until(handle.status, lambda seen: seen.custom_status == "first")
        assert (await handle.status()).hold == "case 7"
        await handle.raise_event("go", "second")
        assert await handle.result(DEADLINE) == "second"
        assert (await handle.status()).hold == "case 7"
        assert [status.hold async for status in hub.query()] == ["case 7"]
        await handle.release()
        assert (await handle.status()).hold is None


async def test_a_hold_needs_a_reason_and_an_instance(hub_url: str) -> None:
    async with TaskHub(hub_url) as hub:
        for bad, error in (("", ValueError), (" ", ValueError), (None, TypeError), ({"$set": 1}, TypeError)):
            with pytest.raises(error, match=r"hold"):
                await hub.get("a").hold(bad)  # type: ignore[arg-type]
        with pytest.raises(InstanceNotFoundError):
            await hub.get("a").hold("case")
        with pytest.raises(InstanceNotFoundError):
            await hub.get("a").release()


# --- on every store ------------------------------------------------------------------------------


async def test_the_background_purges_on_every_store(hub_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "INTERVAL", 0.05)
    hub = TaskHub(hub_url, settings=Settings(retain={RuntimeStatus.COMPLETED: timedelta(seconds=1)}))
    ends = define(hub)
    keeps = hub.orchestrator(name="keeps", retain={})(ends.fn)
    async with hub.worker():
        for number in range(5):
            await hub.start(ends, "x" * 300_000, instance_id=f"goes{number}")
        await run(hub, ends, "badly", instance_id="failed")
        await run(hub, keeps, instance_id="kept")
        await run(hub, ends, instance_id="held")
        await hub.get("held").hold("case 7")
        await until(lambda: there(hub), lambda found: found == {"failed", "kept", "held"})
        for number in range(5):
            with pytest.raises(InstanceNotFoundError):
                await hub.get(f"goes{number}").status()
        await hub.get("held").release()
        await until(lambda: there(hub), lambda found: found == {"failed", "kept"})


# --- what cannot be said -------------------------------------------------------------------------

BAD: list[tuple[Any, type[Exception], str]] = [
    (timedelta(0), ValueError, "longer than zero"),
    (-KEEP, ValueError, "longer than zero"),
    (timedelta.max, ValueError, "at most"),
    (3600, TypeError, "3600"),
    ("1h", TypeError, "1h"),
    ({RuntimeStatus.RUNNING: KEEP}, ValueError, "Running"),
    ({"Done": KEEP}, ValueError, "Done"),
    ({RuntimeStatus.FAILED: timedelta(0)}, ValueError, "of Failed must be longer"),
    ({RuntimeStatus.FAILED: 5}, TypeError, "of Failed must be a timedelta, not 5"),
]


@pytest.mark.parametrize(("retain", "error", "said"), BAD, ids=lambda value: repr(value)[:30])
def test_a_bad_retention_is_refused_and_named(retain: Any, error: type[Exception], said: str) -> None:
    makers: list[tuple[Callable[[], object], str]] = [
        (lambda: Settings(retain=retain), "setting retain"),
        (lambda: define(Registry(), retain=retain), "retain of 'ends'"),
    ]
    for make, what in makers:
        with pytest.raises(error, match=said) as caught:
            make()
        assert what in str(caught.value)
