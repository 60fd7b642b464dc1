"""The design with nothing around it: the yardstick for what the engine costs above that. Not to be used for anything.

A loop nested in the host's, activities run where they were called, one checkpoint row and one projection row per turn,
and commits in groups by a thread. What makes an engine of it is missing: replay, recovery, partitions, messages, types,
errors, limits. ``python -m benchmarks.prototype WORKLOAD`` prints the figures of a workload of
``durable bench`` as JSON, on a new SQLite file with ``synchronous=FULL``.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
import threading
import time
from asyncio import events as _events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeAlias
from uuid import uuid4

import orjson

from durable.bench.measuring import measured, percentile
from durable.host_loop import host_runner

Turn: TypeAlias = tuple[tuple[str, int, str], tuple[str, str, int, str | None], Callable[[], None]]

_SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE history (instance TEXT, seq INTEGER, events TEXT, PRIMARY KEY (instance, seq));
CREATE TABLE instances (instance TEXT PRIMARY KEY, status TEXT, updated_at INTEGER, output TEXT);
"""
_CHECKPOINT = "INSERT INTO history VALUES (?, ?, ?)"
_RECORD = """
INSERT INTO instances VALUES (?, ?, ?, ?) ON CONFLICT (instance)
DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at, output = excluded.output
"""


class Loop(asyncio.AbstractEventLoop):
    """The least that asyncio's tasks and futures need of a loop."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        return asyncio.Task(coro, loop=self, **options)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def run(self, apply: Callable[[Any], object], event: Any) -> None:
        """Apply an event and run until nothing is ready."""
        host = _events._get_running_loop()
        _events._set_running_loop(self)
        try:
            apply(event)
            while self._ready:
                handle = self._ready.popleft()
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        finally:
            _events._set_running_loop(host)


class Instance:
    """An orchestration in memory, which begins at once; ``result`` is done when its end is committed."""

    def __init__(self, engine: Engine, code: Callable[[Instance, Any], Coroutine[Any, Any, Any]], arg: Any) -> None:
        self._engine = engine
        self._code = code
        self._id = uuid4().hex
        self._seq = self._calls = 0
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._arrived: list[tuple[Any, ...]] = [("ExecutionStarted", 0, orjson.dumps(arg).decode())]
        self._decided: list[tuple[Any, ...]] = []
        self._loop = Loop()  # type: ignore[abstract]  # nobody calls the rest
        self._main: asyncio.Task[Any]
        self._busy = True
        self.created: asyncio.Future[None] = engine.loop.create_future()
        self.result: asyncio.Future[Any] = engine.loop.create_future()
        self._turn()

    def call(self, activity: Callable[[Any], Awaitable[Any]], arg: Any) -> asyncio.Future[Any]:
        """Call an activity of one argument."""
        self._calls += 1
        future = self._open[self._calls] = self._loop.create_future()
        payload = orjson.dumps(arg).decode()
        self._decided.append(("TaskScheduled", self._calls, activity.__name__, payload, activity))
        return future

    def _apply(self, event: tuple[Any, ...]) -> None:
        if event[0] == "ExecutionStarted":
            self._main = self._loop.create_task(self._code(self, orjson.loads(event[2])), context=Context())
        else:
            self._open.pop(event[1]).set_result(orjson.loads(event[2]))

    def _turn(self) -> None:
        arrived, self._arrived, self._decided = self._arrived, [], []
        for event in arrived:
            self._loop.run(self._apply, event)
        status, output = "Running", None
        if self._main.done():
            status, output = "Completed", orjson.dumps(self._main.result()).decode()
            self._decided.append(("ExecutionCompleted", 0, output))
        now = time.time_ns()
        decided = [decision[:4] for decision in self._decided]
        events = orjson.dumps([*arrived, ("OrchestratorStarted", now), *decided, ("OrchestratorCompleted", now)])
        self._seq += 1
        self._engine.submit(((self._id, self._seq, events.decode()), (self._id, status, now, output), self._committed))

    def _committed(self) -> None:
        self._busy = False
        if self._seq == 1:
            self.created.set_result(None)
        if self._main.done():
            self.result.set_result(self._main.result())
            return
        for decision in self._decided:
            self._engine.loop.create_task(self._execute(*decision[1:]))
        if self._arrived:
            self._turn_soon()

    async def _execute(self, task_id: int, name: str, payload: str, activity: Callable[[Any], Awaitable[Any]]) -> None:
        result = await activity(orjson.loads(payload))
        self._arrived.append(("TaskCompleted", task_id, orjson.dumps(result).decode()))
        if not self._busy:
            self._turn_soon()

    def _turn_soon(self) -> None:
        self._busy = True
        self._engine.loop.call_soon(self._turn)


class Engine:
    """Commits turns in groups; to be made in the host's loop."""

    def __init__(self, path: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._path = path
        self._waiting: list[Turn] = []
        self._busy = False
        self._batches: SimpleQueue[list[Turn]] = SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def submit(self, turn: Turn) -> None:
        """Have a turn committed, after which its callback is called."""
        self._waiting.append(turn)
        if not self._busy:
            self._busy = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._busy = bool(batch)
        if batch:
            self._batches.put(batch)

    def _write(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.executescript(_SCHEMA)
        while True:
            batch = self._batches.get()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_CHECKPOINT, [checkpoint for checkpoint, _, _ in batch])
            connection.executemany(_RECORD, [record for _, record, _ in batch])
            connection.execute("COMMIT")
            self.loop.call_soon_threadsafe(self._done, batch)

    def _done(self, batch: list[Turn]) -> None:
        for _, _, committed in batch:
            committed()
        self._flush()


async def say_hello(city: str) -> str:
    return f"Hello {city}!"


async def hello_sequence(instance: Instance, cities: list[str]) -> list[str]:
    return [await instance.call(say_hello, city) for city in cities]


async def fan_out(instance: Instance, width: int) -> int:
    return len(await asyncio.gather(*[instance.call(say_hello, "Tokyo") for _ in range(width)]))


async def steps(instance: Instance, count: int) -> None:
    for _ in range(count):
        await instance.call(say_hello, "Tokyo")


async def _run(engine: Engine, code: Callable[[Instance, Any], Coroutine[Any, Any, Any]], arg: Any) -> None:
    instance = Instance(engine, code, arg)
    await instance.created
    await instance.result


async def _latency(engine: Engine, count: int = 500) -> dict[str, float]:
    times = []
    with measured() as span:
        for _ in range(count):
            start = perf_counter()
            await _hello(engine)
            times.append(perf_counter() - start)
    return {"p50 ms": percentile(times, 0.5) * 1e3, "CPU ms each": span.cpu / count * 1e3}


async def _throughput(engine: Engine, count: int = 5000, in_flight: int = 200) -> dict[str, float]:
    async def starter() -> None:
        for _ in range(count // in_flight):
            await _hello(engine)

    with measured() as span:
        await asyncio.gather(*[starter() for _ in range(in_flight)])
    return {"instances/s": count / span.wall, "CPU ms each": span.cpu / count * 1e3}


async def _one(
    code: Callable[[Instance, Any], Coroutine[Any, Any, Any]], rate: str, engine: Engine, count: int = 1000
) -> dict[str, float]:
    with measured() as span:
        await _run(engine, code, count)
    return {rate: count / span.wall, "CPU ms each": span.cpu / count * 1e3}


async def _hello(engine: Engine) -> None:
    await _run(engine, hello_sequence, ["Tokyo", "Seattle", "London"])


WORKLOADS: dict[str, Callable[[Engine], Awaitable[dict[str, float]]]] = {
    "W1-latency": _latency,
    "W1-throughput": _throughput,
    "W2": partial(_one, fan_out, "activities/s"),
    "W3": partial(_one, steps, "steps/s"),
}


async def main(name: str) -> None:
    """Print the figures of a workload of that name as JSON."""
    with tempfile.TemporaryDirectory(prefix="durable-bench-") as folder:
        engine = Engine(f"{folder}/prototype.db")
        await asyncio.gather(*[_hello(engine) for _ in range(200)])
        sys.stdout.write(json.dumps(await WORKLOADS[name](engine)))


if __name__ == "__main__":
    with host_runner() as runner:
        runner.run(main(sys.argv[1]))
