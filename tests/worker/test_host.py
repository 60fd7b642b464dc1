"""The host's loop stays alive: long replays are cut into slices, and code that blocks is named."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from durable import OrchestrationContext, Registry, TaskHub

STEPS = 2_500  # four history events each

registry = Registry()
waits: list[asyncio.Event] = []


@registry.activity
async def step(n: int) -> int:
    return n


@registry.activity
async def wait_forever() -> None:
    waits[-1].set()
    await asyncio.Event().wait()


@registry.orchestrator
async def long(ctx: OrchestrationContext, steps: int) -> None:
    for n in range(steps):
        await step(n)
    await wait_forever()


@registry.orchestrator
async def wide(ctx: OrchestrationContext, width: int) -> None:
    await asyncio.gather(*[step(n) for n in range(width)])
    await wait_forever()


@registry.orchestrator
async def blocks(ctx: OrchestrationContext) -> str:
    time.sleep(0.5)  # noqa: ASYNC251 - the mistake
    return "done"


@pytest.mark.parametrize(("orchestrator", "size"), [("long", STEPS), ("wide", 2 * STEPS)])
async def test_a_long_replay_lets_the_host_go_on_every_few_milliseconds(orchestrator: str, size: int) -> None:
    url = f"memory://{uuid4().hex}"
    waits.append(asyncio.Event())
    first, second = TaskHub(url), TaskHub(url)
    for hub in (first, second):
        hub.include(registry)
    async with first.worker(drain_time=0.1):
        handle = await first.start(orchestrator, size)
        await asyncio.wait_for(waits[-1].wait(), 60)
    waits.append(asyncio.Event())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async with second.worker(drain_time=0.1):
        ticking = asyncio.create_task(tick())
        await asyncio.wait_for(waits[-1].wait(), 60)  # replayed, and its last activity delivered again
        ticking.cancel()
        assert len(await second.get(handle.instance_id).history()) >= size
    # Ten thousand events take far longer than a slice of 5 ms: the host had its turn in between.
    assert ticks >= 5


async def test_an_orchestrator_that_blocks_the_loop_is_reported_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = TaskHub("memory://")
    hub.include(registry)
    with caplog.at_level(logging.WARNING, logger="durable.worker"):
        async with hub.worker(blocked_turn=0.05):
            handle = await hub.start("blocks", instance_id="sleepy")
            assert await handle.result(30) == "done"
    (report,) = [record.getMessage() for record in caplog.records if "has kept the event loop" in record.getMessage()]
    assert "'sleepy'" in report
    assert "in blocks" in report
    assert "time.sleep(0.5)" in report


async def test_a_deploy_that_cuts_an_activity_off_does_not_count_as_a_death() -> None:
    url = f"memory://{uuid4().hex}"
    for _ in range(5):
        waits.append(asyncio.Event())
        hub = TaskHub(url)
        hub.include(registry)
        async with hub.worker(drain_time=0.05, max_deliveries=2):
            if len([one async for one in hub.query()]) == 0:
                await hub.start("long", 0, instance_id="patient")
            await asyncio.wait_for(waits[-1].wait(), 30)  # delivered again, not given up as poison
    async with TaskHub(url) as client:
        assert (await client.get("patient").status()).runtime_status == "Running"


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its collector has no middle generation")
async def test_the_collector_walks_little_at_a_time_while_a_worker_runs() -> None:
    """The middle generation is walked in one go, which takes long by default when many instances begin."""
    hub = TaskHub(f"memory://{uuid4().hex}")
    async with hub.worker(gc_threshold=9_000):
        assert gc.get_threshold() == (9_000, 1, 40)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.usefixtures("collector")
async def test_the_collector_of_a_program_that_set_it_itself_is_left_alone() -> None:
    hub = TaskHub(f"memory://{uuid4().hex}")
    async with hub.worker(gc_threshold=0):
        assert gc.get_threshold() == (700, 10, 10)
    gc.set_threshold(50_000, 10, 10)
    async with hub.worker():
        assert gc.get_threshold() == (50_000, 10, 10)
    gc.set_threshold(700, 10, 10)
    async with hub.worker():
        gc.set_threshold(1_000, 5, 5)
    assert gc.get_threshold() == (1_000, 5, 5)
