"""An instance that is thrown out of memory: nothing it does while it ends counts, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import weakref
from asyncio import events
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from anyio._backends import _asyncio as anyio_backend

from durable import anyio_order
from durable.core.errors import LoopDiscardedError
from durable.core.futures import DurableFuture
from tests.core.nested_loop import NestedLoop, make_loop


class Log(list[str]):
    """What user code did after the eviction began."""


Shape = Callable[[NestedLoop, Log], Coroutine[Any, Any, Any]]


async def sleeping(loop: NestedLoop, log: Log) -> None:
    await asyncio.sleep(60)
    log.append("went on")


async def in_task_group(loop: NestedLoop, log: Log) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(asyncio.sleep(n + 1))
    log.append("went on")


async def awaiting_in_finally(loop: NestedLoop, log: Log) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(1)
        log.append("went on")


async def retrying_in_finally(loop: NestedLoop, log: Log) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        while True:
            with contextlib.suppress(Exception):
                await loop.call(2)
                break
        log.append("went on")


async def in_context_managers(loop: NestedLoop, log: Log) -> None:
    @contextlib.contextmanager
    def plain() -> Iterator[None]:
        try:
            yield
        finally:
            loop.call_soon(log.append, "callback")

    @contextlib.asynccontextmanager
    async def asynchronous() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.create_task(asyncio.sleep(1))
            log.append("went on")

    with plain():
        async with asynchronous(), asyncio.Lock(), asyncio.timeout(30):
            await asyncio.sleep(60)


async def in_async_generator(loop: NestedLoop, log: Log) -> None:
    async def ticks() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(1)
                yield 1
        finally:
            await asyncio.sleep(1)
            log.append("went on")

    async for _ in ticks():
        pass


async def with_clean_up(loop: NestedLoop, log: Log) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        assert asyncio.get_running_loop() is loop
        loop.call_soon(log.append, "callback")


async def in_what_a_generator_awaits(loop: NestedLoop, log: Log) -> None:
    async def outer() -> AsyncIterator[None]:
        async for _ in inner():
            yield

    async def inner() -> AsyncIterator[None]:
        await with_clean_up(loop, log)
        yield

    async for _ in outer():
        log.append("went on")


async def on_the_way_into_a_context_manager(loop: NestedLoop, log: Log) -> None:
    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[None]:
        await with_clean_up(loop, log)
        yield

    async with entered():
        log.append("went on")


async def in_the_first_of_a_generator(loop: NestedLoop, log: Log) -> None:
    async def ticks() -> AsyncIterator[None]:
        await with_clean_up(loop, log)
        yield

    await anext(ticks(), None)
    log.append("went on")


async def beside_a_suspended_generator(loop: NestedLoop, log: Log) -> None:
    async def ticks() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            log.append("closed")

    generator = ticks()
    await anext(generator)
    await asyncio.sleep(60)


async def in_anyio_group(loop: NestedLoop, log: Log) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 60)
        with anyio.move_on_after(30):
            await anyio.sleep(60)
    log.append("went on")


async def in_wait_for(loop: NestedLoop, log: Log) -> None:
    await asyncio.gather(asyncio.wait_for(asyncio.Event().wait(), 5), asyncio.shield(asyncio.sleep(9)))
    log.append("went on")


async def awaiting_a_call(loop: NestedLoop, log: Log) -> None:
    try:
        await loop.call(1)
    finally:
        await asyncio.gather(loop.call(2), loop.call(3))
        log.append("went on")


async def handing_out_calls(loop: NestedLoop, log: Log) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(loop.call(1))
        await asyncio.gather(loop.call(2), loop.call(3))
    log.append("went on")


async def forgotten_task(loop: NestedLoop, log: Log) -> None:
    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            log.append("went on")

    asyncio.get_running_loop().create_task(background())
    await asyncio.sleep(60)


SHAPES: list[Shape] = [
    sleeping,
    in_task_group,
    awaiting_in_finally,
    retrying_in_finally,
    in_context_managers,
    in_async_generator,
    in_what_a_generator_awaits,
    on_the_way_into_a_context_manager,
    in_the_first_of_a_generator,
    beside_a_suspended_generator,
    in_anyio_group,
    in_wait_for,
    awaiting_a_call,
    handing_out_calls,
    forgotten_task,
]


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda problem: seen.append(str(problem.exc_value)))
    return seen


@pytest.mark.parametrize("shape", SHAPES)
def test_eviction_has_no_effect_and_leaves_nothing(shape: Shape, unraisable: list[Any]) -> None:
    anyio_order.install()
    gc.collect()
    others = len(anyio_backend._task_states)
    log = Log()
    loop = make_loop()
    task = loop.start(shape(loop, log))
    assert not task.done()
    left = [weakref.ref(task), weakref.ref(task.get_coro()), weakref.ref(loop)]
    timers = len(loop.timers)

    loop.discard()
    assert (log, loop.problems, loop.cancelled_calls, unraisable) == ([], [], [], [])
    assert len(loop.timers) == timers
    assert loop.is_closed()
    assert loop.live_tasks() == []
    assert asyncio.all_tasks(loop) == set()
    assert events._get_running_loop() is None

    loop.timers.clear()  # the test's own references
    del task, loop
    gc.collect()
    assert [ref() for ref in left] == [None] * 3
    assert (log, unraisable) == ([], [])
    assert len(anyio_backend._task_states) == others


def test_eviction_does_not_disturb_the_host() -> None:
    async def main() -> None:
        loop = make_loop()
        loop.start(awaiting_in_finally(loop, Log()))
        before = (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks())
        loop.discard()
        assert (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()) == before
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.sleep(0)

    asyncio.run(main())


def test_tasks_are_closed_newest_first_each_as_the_current_one() -> None:
    loop = make_loop()
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            current = asyncio.current_task()
            assert current is not None
            assert asyncio.get_running_loop() is loop
            log.append(f"{name} as {current.get_name()}")

    async def parent() -> None:
        tasks = [asyncio.create_task(child(name), name=name) for name in "ab"]
        try:
            await asyncio.gather(*tasks)
        finally:
            log.append("parent")

    loop.start(parent())
    loop.discard()
    assert log == ["b as b", "a as a", "parent"]


def test_discarding_again_does_nothing() -> None:
    loop = make_loop()
    loop.start(asyncio.sleep(1))
    loop.discard()
    loop.discard()
    assert loop.is_closed()


def test_discarding_a_finished_instance_breaks_its_cycle() -> None:
    loop = make_loop()
    task = loop.start(asyncio.sleep(0, "result"))
    ref = weakref.ref(loop)
    gc.disable()
    try:
        loop.discard()
        assert task.result() == "result"
        del loop, task
        assert ref() is None
    finally:
        gc.enable()


def test_a_discarded_loop_refuses_those_outside() -> None:
    loop = make_loop()
    started: list[DurableFuture] = []

    async def orchestrator() -> None:
        await loop.call(1, started)

    loop.start(orchestrator())
    loop.discard()
    with pytest.raises(LoopDiscardedError):
        loop.call_soon(print)
    with pytest.raises(LoopDiscardedError):
        loop.create_future()
    with pytest.raises(LoopDiscardedError):
        started[0].set_result(1)
    with pytest.raises(LoopDiscardedError):
        loop.check_not_discarded()


def test_keyboard_interrupt_is_not_swallowed() -> None:
    loop = make_loop()

    async def interrupted() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            raise KeyboardInterrupt

    loop.start(interrupted())
    with pytest.raises(KeyboardInterrupt):
        loop.discard()
    assert events._get_running_loop() is None


STUBBORN = """
import asyncio, gc
from tests.core.nested_loop import make_loop

async def call_again():
    while True:
        try:
            await asyncio.sleep(1)
        except BaseException:
            continue

async def start_again():
    while True:
        try:
            await asyncio.create_task(asyncio.sleep(1))
        except BaseException:
            continue

async def wait_again():
    event = asyncio.Event()
    while True:
        try:
            async with asyncio.timeout(5):
                await event.wait()
        except BaseException:
            continue

async def inside(stubborn):
    try:
        await stubborn()
    finally:
        await asyncio.sleep(1)

for stubborn in call_again, start_again, wait_again, lambda: inside(call_again), lambda: inside(wait_again):
    loop = make_loop()
    loop.start(stubborn())
    loop.discard()
    assert asyncio.all_tasks(loop) == set()
    del loop
    gc.collect()
print("ended")
"""


def test_code_that_will_not_end_is_left_and_never_runs_again() -> None:
    """Not even at interpreter exit, where it would hang: so in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", STUBBORN], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_a_forgotten_task_is_kept_alive() -> None:
    """Or the garbage collector would end it, at a time that no replay repeats."""
    loop = make_loop()
    log = Log()
    loop.start(forgotten_task(loop, log))
    gc.collect()
    assert len(loop.live_tasks()) == 2
    loop.discard()


def test_finished_tasks_are_forgotten_in_time() -> None:
    loop = make_loop()

    async def orchestrator() -> int:
        for _ in range(1000):
            await asyncio.create_task(asyncio.sleep(0))
        return len(loop._tasks)

    assert loop.run(orchestrator()) <= 32
