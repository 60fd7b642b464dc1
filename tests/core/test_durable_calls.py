"""Calls and their futures in the places of coroutines and tasks."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import anyio
import pytest

from durable import anyio_order
from durable.core.futures import DurableFuture
from tests.core.nested_loop import NestedLoop, make_loop


@pytest.fixture
def loop() -> NestedLoop:
    anyio_order.install()
    return make_loop()


@pytest.fixture
def started() -> list[DurableFuture]:
    return []


def finish(loop: NestedLoop, started: list[DurableFuture]) -> None:
    """Complete every call with ten times its number, as they come, last first."""
    while any(not future.done() for future in started):
        for future in reversed(list(started)):
            loop.complete(future, future.task_id * 10)


def test_a_call_starts_when_it_is_awaited(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> Any:
        call = loop.call(1, started)
        assert started == []
        return await call

    task = loop.start(orchestrator())
    assert [future.task_id for future in started] == [1]
    finish(loop, started)
    assert task.result() == 10


def test_gather_starts_calls_in_order_without_tasks(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> Any:
        return await asyncio.gather(*(loop.call(n, started) for n in range(5)))

    task = loop.start(orchestrator())
    assert [future.task_id for future in started] == [0, 1, 2, 3, 4]
    assert loop.live_tasks() == [task]
    finish(loop, started)
    assert task.result() == [0, 10, 20, 30, 40]


def test_task_group(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop.call(n, started), name=f"call {n}") for n in (1, 2)]
        return [(task.get_name(), task.result()) for task in tasks]

    task = loop.start(orchestrator())
    finish(loop, started)
    assert task.result() == [("call 1", 10), ("call 2", 20)]


def test_task_group_cancels_its_calls(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> None:
        async with asyncio.TaskGroup() as group:
            for n in (1, 2, 3):
                group.create_task(loop.call(n, started))

    task = loop.start(orchestrator())
    loop.run_until_idle(lambda: started[1].set_exception(LookupError("two")))
    with pytest.raises(ExceptionGroup) as raised:
        task.result()
    assert [str(error) for error in raised.value.exceptions] == ["two"]
    assert loop.cancelled_calls == [1, 3]


def test_wait_for_cancels_the_call(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> str:
        try:
            await asyncio.wait_for(loop.call(1, started), 5)
        except TimeoutError:
            return "late"
        return "in time"

    assert loop.run(orchestrator()) == "late"
    assert loop.cancelled_calls == [1]


def test_shield_does_not(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> str:
        try:
            await asyncio.wait_for(asyncio.shield(loop.call(1, started)), 5)
        except TimeoutError:
            return "late"
        return "in time"

    assert loop.run(orchestrator()) == "late"
    assert loop.cancelled_calls == []
    assert not started[0].done()


def test_create_task_and_cancel(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> tuple[bool, bool]:
        task = asyncio.create_task(loop.call(1, started), name="mine")
        assert task.get_name() == "mine"
        assert task.get_stack() == []
        first, second = task.cancel("enough"), task.cancel()
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        return first, second

    assert loop.run(orchestrator()) == (True, False)
    assert loop.cancelled_calls == [1]


def test_as_completed_gives_calls_as_they_come(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> list[Any]:
        return [await next_one for next_one in asyncio.as_completed([loop.call(n, started) for n in (1, 2, 3)])]

    task = loop.start(orchestrator())
    assert [future.task_id for future in started] == [1, 2, 3]
    for n in (2, 0, 1):
        loop.complete(started[n], n)
    assert task.result() == [2, 0, 1]


def test_anyio_start_soon(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> str:
        async with anyio.create_task_group() as group:
            for n in (1, 2):
                group.start_soon(loop.call, n, started)
        return "all"

    task = loop.start(orchestrator())
    assert [future.task_id for future in started] == [1, 2]
    finish(loop, started)
    assert task.result() == "all"


def test_anyio_cancels_its_calls(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> bool:
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as group:
                for n in (1, 2):
                    group.start_soon(loop.call, n, started)
        return scope.cancelled_caught

    assert loop.run(orchestrator()) is True
    assert sorted(loop.cancelled_calls) == [1, 2]


def test_a_task_around_a_call(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> Any:
        task: asyncio.Task[Any] = asyncio.Task(loop.call(1, started), loop=asyncio.get_running_loop())
        assert "Task" in repr(task)
        return await task

    task = loop.start(orchestrator())
    finish(loop, started)
    assert task.result() == 10


def test_a_call_is_a_coroutine_to_those_who_ask(loop: NestedLoop) -> None:
    call = loop.call(1)
    assert asyncio.iscoroutine(call)
    assert inspect.isawaitable(call)
    call.close()


def test_a_call_starts_once(loop: NestedLoop, started: list[DurableFuture]) -> None:
    async def orchestrator() -> None:
        call = loop.call(1, started)
        await asyncio.create_task(call)
        await call

    task = loop.start(orchestrator())
    finish(loop, started)
    with pytest.raises(RuntimeError, match="already awaited call of activity 1"):
        task.result()
    assert len(started) == 1


def test_a_call_that_is_never_awaited_warns(loop: NestedLoop) -> None:
    with pytest.warns(RuntimeWarning, match="call of activity 1 was never awaited"):
        loop.call(1)


@pytest.mark.parametrize(
    "arguments", [(LookupError("x"),), (LookupError,), (LookupError, LookupError("x"), None), (LookupError, None, None)]
)
def test_throwing_into_a_call_that_has_not_started_raises_there(loop: NestedLoop, arguments: tuple[Any, ...]) -> None:
    call = loop.call(1)
    with pytest.raises(LookupError):
        call.throw(*arguments)
    with pytest.raises(RuntimeError, match="already awaited"):
        call.send(None)
