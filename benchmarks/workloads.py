"""The workloads: what is run and measured. W-numbers as in docs/performance.md."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any

from benchmarks.measuring import Result, measured, percentile, resident_bytes
from benchmarks.recording import RecordingBackend, write_again
from benchmarks.stores import Store
from durable import OrchestrationContext, Orchestrator, Registry, TaskHub
from durable.core.events import TaskCompleted

CITIES = ["Tokyo", "Seattle", "London"]
registry = Registry()
forever_runs = threading.Event()


@registry.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@registry.activity
async def forever() -> None:
    forever_runs.set()
    await asyncio.Event().wait()


@registry.orchestrator
async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await say_hello(city) for city in cities]


@registry.orchestrator
async def fan_out(ctx: OrchestrationContext, width: int) -> int:
    return len(await asyncio.gather(*[say_hello(str(n)) for n in range(width)]))


@registry.orchestrator
async def steps(ctx: OrchestrationContext, count: int, then_wait: bool = False) -> int:
    for n in range(count):
        await say_hello(str(n))
    if then_wait:
        await forever()
    return count


@registry.orchestrator
async def sleeper(ctx: OrchestrationContext) -> None:
    await asyncio.sleep(3600)


@asynccontextmanager
async def running(store: Store, url: str, **settings: Any) -> AsyncIterator[tuple[TaskHub, RecordingBackend]]:
    """A hub with a worker on ``url``, its writes recorded on demand."""
    backend = RecordingBackend(store.backend(url))
    hub = TaskHub(backend)
    hub.include(registry)
    async with hub.worker(**settings):
        yield hub, backend


async def hello(hub: TaskHub) -> None:
    handle = await hub.start(hello_sequence, CITIES)
    assert len(await handle.result()) == 3


async def floor(store: Store, backend: RecordingBackend) -> tuple[float, float]:
    """Wall and CPU seconds of writing the recorded batches to an empty store."""
    batches = [list(batch) for batch in backend.batches]
    target = store.backend(store.fresh_url())
    await target.open(16)
    with measured() as span:
        await write_again(target, batches)
    await target.close()
    return span.wall, span.cpu


async def w1_latency(store: Store, count: int) -> Result:
    """Hello sequences one at a time."""
    async with running(store, store.fresh_url()) as (hub, backend):
        for _ in range(20):
            await hello(hub)
        backend.record()
        store.reset_commands()
        times = []
        with measured() as span:
            for _ in range(count):
                start = perf_counter()
                await hello(hub)
                times.append(perf_counter() - start)
        commands = store.commands()
        wall, _ = await floor(store, backend)
    return Result(
        "W1 hello, one at a time",
        store.name,
        {
            "p50 ms": percentile(times, 0.5) * 1e3,
            "p95 ms": percentile(times, 0.95) * 1e3,
            "CPU ms each": span.cpu / count * 1e3,
            "commits each": len(backend.batches) / count,
            "write commands each": commands / count,
            "x floor": span.wall / wall,
        },
    )


async def w1_throughput(store: Store, count: int, in_flight: int = 200) -> Result:
    """Hello sequences, many in flight."""
    async with running(store, store.fresh_url()) as (hub, backend):

        async def starter(share: int) -> None:
            for _ in range(share):
                await hello(hub)

        await asyncio.gather(*[starter(1) for _ in range(in_flight)])
        backend.record()
        store.reset_commands()
        with measured() as span:
            await asyncio.gather(*[starter(count // in_flight) for _ in range(in_flight)])
        commands = store.commands()
        wall, cpu = await floor(store, backend)
    return Result(
        f"W1 hello, {in_flight} in flight",
        store.name,
        {
            "instances/s": count / span.wall,
            "CPU ms each": span.cpu / count * 1e3,
            "floor CPU ms each": cpu / count * 1e3,
            "commits each": len(backend.batches) / count,
            "write commands each": commands / count,
            "x floor": span.wall / wall,
        },
    )


async def w2_fan_out(store: Store, width: int = 1000) -> Result:
    """One instance that awaits many activities at once."""
    return await _one_instance(store, f"W2 fan-out of {width}", fan_out, width, "activities/s")


async def w3_sequence(store: Store, count: int = 1000) -> Result:
    """One instance with many activities, one after the other."""
    return await _one_instance(store, f"W3 {count} sequential", steps, count, "steps/s")


async def _one_instance(store: Store, title: str, orchestrator: Orchestrator[..., int], size: int, unit: str) -> Result:
    async with running(store, store.fresh_url()) as (hub, backend):
        await hello(hub)
        warm = await hub.start(orchestrator, 50)
        await warm.result()
        backend.record()
        with measured() as span:
            handle = await hub.start(orchestrator, size)
            await handle.result()
        ends = [event.timestamp for event in await handle.history() if isinstance(event, TaskCompleted)]
        wall, _ = await floor(store, backend)
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    figures = {unit: size / span.wall, "CPU us per activity": span.cpu / size * 1e6, "x floor": span.wall / wall}
    if unit == "steps/s":
        figures["last 100 / first 100"] = sum(gaps[-100:]) / sum(gaps[:100])
    else:
        figures["commits"] = float(len(backend.batches))
    return Result(title, store.name, figures)


async def w6_cold_replay(store: Store, size: int) -> Result:
    """An instance of ``size`` completed activities is loaded by a worker that does not know it; the host's lag."""
    url = store.fresh_url()
    forever_runs.clear()
    async with running(store, url, drain_time=0.1) as (hub, _):
        handle = await hub.start(steps, size, True)
        while not forever_runs.is_set():
            await asyncio.sleep(0.05)
        events = len(await handle.history())
    lags: list[float] = []
    async with running(store, url, drain_time=0.1) as (hub, _):
        beat = asyncio.create_task(_heartbeat(lags))
        with measured() as span:
            while not hub._is_live(handle.instance_id):
                await asyncio.sleep(0.001)
        beat.cancel()
    return Result(
        f"W6 cold replay of {size}",
        store.name,
        {"events/s": events / span.wall, "ms": span.wall * 1e3, "longest host delay ms": max(lags, default=0.0) * 1e3},
    )


async def _heartbeat(lags: list[float]) -> None:
    while True:
        start = perf_counter()
        await asyncio.sleep(0.001)
        lags.append(perf_counter() - start - 0.001)


async def idle_memory(store: Store, count: int = 5000) -> Result:
    """Bytes of a cached sleeping instance, and the cost of starting the last against the first thousand."""
    async with running(store, store.fresh_url(), cache_instances=2 * count) as (hub, _):
        await hello(hub)
        chunk, costs = min(1000, count // 4), []
        gc.collect()
        before = resident_bytes()
        for _ in range(count // chunk):
            with measured() as span:
                await asyncio.gather(*[hub.start(sleeper) for _ in range(chunk)])
            costs.append(span.cpu / chunk)
        gc.collect()
        used = resident_bytes() - before
    return Result(
        f"{count} sleeping instances",
        store.name,
        {
            "KiB each": used / count / 1024,
            "CPU ms per start": costs[0] * 1e3,
            "last / first start": costs[-1] / costs[0],
        },
    )
