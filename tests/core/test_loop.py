"""The deterministic loop, nested in a host: what it runs, what it refuses, what it leaves as it was."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from asyncio import events
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context, ContextVar
from inspect import iscoroutinefunction
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from durable import anyio_order
from durable.core import loop as loop_module
from durable.core.errors import NonDeterminismError, RunawayTurnError
from durable.core.futures import DurableFuture, Task
from durable.core.ids import hash_salt
from durable.core.loop import DeterministicLoop
from tests.core.nested_loop import NestedLoop, make_loop


@pytest.fixture
def loop() -> NestedLoop:
    anyio_order.install()
    return make_loop()


HOSTS = ["asyncio", "uvloop"]


def run_in_host(host: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    factory = None
    if host == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


# --- time and order ------------------------------------------------------------------------


def test_callbacks_run_in_the_order_they_were_scheduled(loop: NestedLoop) -> None:
    seen: list[int] = []

    def schedule() -> None:
        loop.call_soon(seen.append, 1)
        loop.call_later(0, seen.append, 2)
        loop.call_at(loop.time() - 5, seen.append, 3)
        loop.call_soon(seen.append, 4).cancel()
        loop.call_soon(loop.call_soon, seen.append, 6)
        loop.call_soon(seen.append, 5)

    loop.run_until_idle(schedule)
    assert seen == [1, 2, 3, 5, 6]


def test_time_stands_still_in_a_turn_and_jumps_to_a_timer_that_fires(loop: NestedLoop) -> None:
    async def sleeper() -> list[float]:
        times = [loop.time()]
        await asyncio.sleep(0)
        times.append(loop.time())
        await asyncio.sleep(86_400)
        return [*times, loop.time()]

    assert loop.run(sleeper()) == [0.0, 0.0, 86_400.0]


def test_time_never_goes_back(loop: NestedLoop) -> None:
    loop.advance_to(10)
    loop.advance_to(5)
    assert loop.time() == 10


def test_task_names_do_not_depend_on_other_instances() -> None:
    async def names() -> list[str]:
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        return [task.get_name(), asyncio.create_task(asyncio.sleep(0), name="mine").get_name()]

    assert make_loop().run(names()) == make_loop(salt=7).run(names()) == ["Task-2", "mine"]


def test_a_cancelled_timer_lets_go_of_its_callback_and_is_reported_once(loop: NestedLoop) -> None:
    reported: list[Any] = []
    loop.handle_cancelled = reported.append  # type: ignore[assignment,method-assign]
    sentinel = object()
    count = sys.getrefcount(sentinel)
    handles: list[Any] = []
    loop.run_until_idle(lambda: handles.append(loop.call_later(9, print, sentinel)))
    handles[0].cancel()
    handles[0].cancel()
    assert handles[0].cancelled()
    assert reported == handles
    assert sys.getrefcount(sentinel) == count


def test_a_failing_callback_is_reported_and_the_others_run(loop: NestedLoop) -> None:
    seen: list[int] = []
    loop.run_until_idle(lambda: (loop.call_soon(int, "x"), loop.call_soon(seen.append, 1)))
    assert seen == [1]
    assert [type(problem["exception"]) for problem in loop.problems] == [ValueError]


def test_asyncgens_are_closed_in_the_order_they_were_started(loop: NestedLoop) -> None:
    closed: list[str] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    async def main() -> None:
        for name in "abc":
            async for _ in numbers(name):
                break
        assert closed == []
        await loop.shutdown_asyncgens()

    loop.run(main())
    assert closed == ["a", "b", "c"]


def test_an_asyncgen_that_fails_to_close_does_not_keep_the_others_open(loop: NestedLoop) -> None:
    closed: list[str] = []

    async def broken() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("at closing")

    async def sound() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append("sound")

    async def main() -> None:
        generators = [broken(), sound()]
        for generator in generators:
            await anext(generator)
        await loop.shutdown_asyncgens()

    loop.run(main())
    assert closed == ["sound"]
    assert [str(problem["exception"]) for problem in loop.problems] == ["at closing"]


# --- runaway -------------------------------------------------------------------------------


def test_a_turn_that_never_rests_is_stopped(loop: NestedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "CALLBACK_LIMIT", 1000)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RunawayTurnError, match="1000 callbacks"):
        loop.start(spin())
    assert events._get_running_loop() is None
    loop.discard()


def test_a_turn_may_use_its_limit_up(loop: NestedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "CALLBACK_LIMIT", 10)
    seen: list[int] = []
    loop.run_until_idle(lambda: [loop.call_soon(seen.append, n) for n in range(10)])
    assert seen == list(range(10))


# --- refusals ------------------------------------------------------------------------------

REFUSED = sorted(
    name
    for name in vars(asyncio.AbstractEventLoop)
    if getattr(getattr(DeterministicLoop, name), "__module__", None) == "durable.core.refusals"
)


def test_what_is_refused_is_what_touches_the_world() -> None:
    assert len(REFUSED) > 25
    assert {"run_in_executor", "create_connection", "subprocess_exec", "add_reader", "sock_recv"} < set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_call_the_line_and_what_to_use(loop: NestedLoop, name: str) -> None:
    method = getattr(loop, name)
    assert iscoroutinefunction(method) == iscoroutinefunction(getattr(asyncio.AbstractEventLoop, name))

    async def orchestrator() -> None:
        outcome = method(1, 2)
        if asyncio.iscoroutine(outcome):
            await outcome

    with pytest.raises(NonDeterminismError) as raised:
        loop.run(orchestrator())
    message = str(raised.value)
    assert f"loop.{name}()" in message
    assert "test_loop.py:" in message
    assert "in test_a_refusal_names_the_call_the_line_and_what_to_use.<locals>.orchestrator" in message
    assert any(advice in message for advice in ("activity", "host", "await instead", "return from", "stable order"))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: asyncio.to_thread(print), r"loop\.run_in_executor\(\)"),
        (lambda: asyncio.open_connection("localhost", 1), r"loop\.create_connection\(\)"),
        (lambda: asyncio.create_subprocess_exec("true"), r"loop\.subprocess_exec\(\)"),
        (lambda: anyio.to_thread.run_sync(print), r"threading\.Thread\.start\(\)"),
        (lambda: anyio.open_file("x"), r"threading\.Thread\.start\(\)"),
        (lambda: anyio.run_process(["true"]), r"loop\.subprocess_exec\(\)"),
    ],
)
def test_the_ways_of_libraries_to_the_world_are_refused(loop: NestedLoop, call: Callable[[], Any], named: str) -> None:
    async def orchestrator() -> None:
        await call()

    with pytest.raises(NonDeterminismError, match=rf"{named} was called in an orchestrator \(at test_loop.py:\d+ in"):
        loop.run(orchestrator())


def test_threads_start_everywhere_else() -> None:
    anyio_order.install()
    seen: list[int] = []
    thread = threading.Thread(target=seen.append, args=(1,))
    thread.start()
    thread.join()
    assert seen == [1]

    async def host() -> int:
        return await anyio.to_thread.run_sync(lambda: 2)

    assert asyncio.run(host()) == 2


def test_asyncio_run_in_an_orchestrator_is_refused(loop: NestedLoop) -> None:
    async def orchestrator() -> None:
        coro = asyncio.sleep(0)
        try:
            asyncio.run(coro)
        finally:
            coro.close()

    with pytest.raises(RuntimeError, match="running event loop"):
        loop.run(orchestrator())


# --- nested in a host ------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_turn_leaves_the_host_as_it_was(host: str) -> None:
    async def orchestrator() -> list[Any]:
        async def numbers() -> AsyncIterator[int]:
            yield 1
            yield 2

        task = asyncio.current_task()
        found = [asyncio.get_running_loop(), task in asyncio.all_tasks(), len(asyncio.all_tasks())]
        return found + [n async for n in numbers()]

    async def main() -> None:
        loop = make_loop()
        before = (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks())
        assert loop.run(orchestrator()) == [loop, True, 1, 1, 2]
        assert (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()) == before
        await asyncio.sleep(0.001)
        turn: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: turn.set_result(make_loop().run(asyncio.sleep(5, "from a callback")))
        )
        assert await turn == "from a callback"

    run_in_host(host, main)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_turn_that_is_interrupted_leaves_the_host_as_it_was(host: str, error: type[BaseException]) -> None:
    async def interrupted() -> None:
        raise error("from user code")

    async def main() -> None:
        loop = make_loop()
        before = (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks())
        with pytest.raises(error):
            loop.start(interrupted())
        assert (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()) == before
        assert not loop.is_running()
        loop.discard()

    run_in_host(host, main)


def test_loops_nest_in_each_other(loop: NestedLoop) -> None:
    async def outer() -> Any:
        result = make_loop().run(asyncio.sleep(3, "inner"))
        return result, asyncio.get_running_loop() is loop

    assert loop.run(outer()) == ("inner", True)


def test_a_loop_cannot_run_itself(loop: NestedLoop) -> None:
    async def orchestrator() -> None:
        loop.run_until_idle()

    with pytest.raises(RuntimeError, match="in a turn already"):
        loop.run(orchestrator())


def test_context_variables_do_not_cross(loop: NestedLoop) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    variable.set("host")
    seen: list[str] = []

    async def orchestrator() -> None:
        seen.append(variable.get())
        variable.set("orchestrator")
        await asyncio.create_task(asyncio.sleep(0))
        seen.append(variable.get())

    loop.run_until_idle(lambda: loop.create_task(orchestrator(), context=Context()))
    assert seen == ["unset", "orchestrator"]
    assert variable.get() == "host"
    assert contextvars.copy_context()[variable] == "host"


# --- futures of other loops --------------------------------------------------------------------

FOREIGN: dict[str, Callable[[asyncio.Future[Any]], Any]] = {
    "await": lambda future: future,
    "gather": lambda future: asyncio.gather(future),
    "shield": lambda future: asyncio.shield(future),
    "wait": lambda future: asyncio.wait([future]),
    "wait_for": lambda future: asyncio.wait_for(future, 1),
    "as_completed": lambda future: next(iter(asyncio.as_completed([future]))),
}


@pytest.mark.parametrize("how", FOREIGN)
def test_a_future_of_the_host_is_refused_at_the_line(loop: NestedLoop, how: str) -> None:
    async def main() -> None:
        foreign: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def orchestrator() -> None:
            await FOREIGN[how](foreign)

        with pytest.raises((NonDeterminismError, RuntimeError, ValueError), match="loop") as raised:
            loop.run(orchestrator())
        assert any(entry.frame.code.name == "orchestrator" for entry in raised.traceback)
        foreign.set_result(1)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert loop.problems == []


def test_wait_names_the_line(loop: NestedLoop) -> None:
    async def main() -> None:
        foreign: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def orchestrator() -> None:
            await asyncio.wait({foreign})

        with pytest.raises(NonDeterminismError, match=r"another event loop .* \(at test_loop.py:\d+ in .*orchestr"):
            loop.run(orchestrator())

    asyncio.run(main())


def test_wait_on_the_host_is_asyncios_own(loop: NestedLoop) -> None:
    async def main() -> None:
        done, pending = await asyncio.wait([asyncio.create_task(asyncio.sleep(0)) for _ in range(3)])
        assert isinstance(done, set)
        assert len(done) == 3
        assert not pending

    asyncio.run(main())


@pytest.mark.parametrize(
    "touch",
    [
        lambda loop, future: future.set_result(1),
        lambda loop, future: loop.call_soon(print),
        lambda loop, future: loop.call_later(1, print),
        lambda loop, future: loop.call_at(1, print),
    ],
)
def test_touching_the_loop_between_turns_is_refused(loop: NestedLoop, touch: Callable[..., Any]) -> None:
    futures: list[asyncio.Future[int]] = []

    async def orchestrator() -> None:
        futures.append(loop.create_future())
        await futures[0]

    loop.start(orchestrator())
    with pytest.raises(NonDeterminismError, match="between turns"):
        touch(loop, futures[0])
    loop.discard()


def test_creating_a_task_between_turns_is_refused(loop: NestedLoop) -> None:
    coro = asyncio.sleep(0)
    with pytest.raises(NonDeterminismError, match="between turns"):
        loop.create_task(coro)
    coro.close()


# --- many instances ------------------------------------------------------------------------------


def probes(loops: list[NestedLoop]) -> int:
    """How often tasks of ``loops`` had to be compared to be told apart: the cost of the registries they are put in."""
    compared = 0

    class Counting(Task):
        __slots__ = ()
        __hash__ = Task.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

    registry: set[Task] = set()
    for loop in loops:
        coro = asyncio.sleep(1)
        loop.run_until_idle(lambda loop=loop, coro=coro: registry.add(Counting(coro, loop=loop, name="", context=None)))
        loop.run_until_idle()
    for task in registry:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    for loop in loops:
        loop.discard()
    return compared


@pytest.mark.parametrize("count", [20_000])
def test_starting_many_instances_is_linear(count: int) -> None:
    """By the number of hash collisions, which is exact, where a time would not be."""
    loops = [make_loop(hash_salt(f"instance-{n}")) for n in range(count)]
    assert probes(loops) < count


def test_without_salt_it_would_not_be() -> None:
    assert probes([make_loop() for _ in range(200)]) > 200 * 199 / 2 - 1


def test_the_anyio_patch_leaves_scopes_of_other_loops_alone() -> None:
    anyio_order.install()
    anyio_order.install()

    async def main() -> int:
        with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
            await anyio.lowlevel.checkpoint()
        assert hash(outer) != hash(inner)
        return hash(outer)

    assert asyncio.run(main()) > 1000  # of its address, not a creation number
    assert make_loop().run(main()) < 10


def test_user_task_group_of_durable_futures_keeps_order(loop: NestedLoop) -> None:
    started: list[DurableFuture] = []
    order: list[int] = []

    async def orchestrator() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(5):
                task = group.create_task(loop.call(n, started))
                task.add_done_callback(lambda _, n=n: order.append(n))  # type: ignore[misc]

    task = loop.start(orchestrator())
    for n in (3, 1, 4, 0, 2):
        loop.complete(started[n], n)
    assert task.done()
    assert order == [3, 1, 4, 0, 2]
