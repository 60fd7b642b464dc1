"""Sagas: what was done is undone, last first, whatever ends the block - and not when the code is only evicted."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from durable import ActivityFailedError, NonDeterminismError, OrchestrationContext, Registry
from durable.core.errors import FailureDetails
from durable.core.events import ExecutionCompleted, HistoryEvent, OrchestratorCompleted, TaskFailed, TaskScheduled
from durable.saga import CompensationError, Saga
from durable.testing import VirtualLoop
from tests.core.nested_loop import make_loop

from .driving import Driver, replayed


class Log(list[Any]):
    """Undos, with the time at which they begin and end."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def undo(self, name: str, *, seconds: float = 1) -> None:
        self.append((self.time(), f"{name} begins"))
        await asyncio.sleep(seconds)
        self.append((self.time(), f"{name} ends"))

    async def fail(self, name: str) -> None:
        self.append((self.time(), f"{name} fails"))
        raise LookupError(name)


@pytest.fixture
def log() -> Log:
    return Log()


def run(block: Callable[[], Coroutine[Any, Any, Any]]) -> BaseException | None:
    """What ``block`` raises, run in virtual time; nothing may be left running when it has ended."""

    async def caught() -> BaseException | None:
        raised: BaseException | None = None
        try:
            await block()
        except (Exception, asyncio.CancelledError) as error:
            raised = error
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert loop.live_tasks() == [asyncio.current_task()]
        return raised

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(caught())


def cancel_in(*times: float) -> None:
    """Have the task that runs now cancelled later, once at each of ``times``."""
    task = asyncio.current_task()
    assert task is not None
    for seconds in times:
        asyncio.get_running_loop().call_later(seconds, task.cancel, "enough")


NO_SEAT = ValueError("no seat")
ONE_AFTER_THE_OTHER = [(0, "b begins"), (1, "b ends"), (1, "a begins"), (2, "a ends")]
TOGETHER = [(0, "b begins"), (0, "a begins"), (1, "b ends"), (1, "a ends")]


def test_undos_run_in_reverse_one_after_the_other(log: Log) -> None:
    async def block() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "a")
            saga.add(log.undo, "b", seconds=1)
            raise NO_SEAT

    assert run(block) is NO_SEAT
    assert log == ONE_AFTER_THE_OTHER


def test_nothing_is_undone_when_the_block_ends_well(log: Log) -> None:
    async def block() -> None:
        saga = Saga()
        async with saga:
            saga.add(log.undo, "a")
        async with saga:
            raise NO_SEAT

    assert run(block) is NO_SEAT
    assert log == []


def test_parallel_undos_begin_in_reverse_and_run_together(log: Log) -> None:
    async def block() -> None:
        async with Saga(parallel=True) as saga:
            saga.add(log.undo, "a")
            saga.add(log.fail, "b")
            saga.add(log.undo, "c", seconds=2)
            saga.add(log.fail, "d")
            raise NO_SEAT

    error = run(block)
    assert isinstance(error, CompensationError)
    assert [str(failure) for failure in error.failures] == ["d", "b"]
    assert log == [(0, "d fails"), (0, "c begins"), (0, "b fails"), (0, "a begins"), (1, "a ends"), (2, "c ends")]


# --- cancellation -----------------------------------------------------------------------------


def test_a_timeout_around_a_saga_waits_for_its_undos(log: Log) -> None:
    async def block() -> None:
        async with asyncio.timeout(5), Saga() as saga:
            saga.add(log.undo, "a")
            await asyncio.sleep(60)

    assert isinstance(run(block), TimeoutError)
    assert log == [(5, "a begins"), (6, "a ends")]


def test_an_anyio_deadline_around_a_saga_waits_for_its_undos(log: Log) -> None:
    async def block() -> None:
        with anyio.fail_after(5):
            async with Saga() as saga:
                saga.add(log.undo, "a")
                await asyncio.sleep(60)

    assert isinstance(run(block), TimeoutError)
    assert log == [(5, "a begins"), (6, "a ends")]


def test_a_saga_in_an_anyio_task_group_that_fails_is_undone(log: Log) -> None:
    async def trip() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "a")
            await anyio.sleep(60)

    async def block() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(trip)
            await anyio.sleep(5)
            raise NO_SEAT

    error = run(block)
    assert isinstance(error, ExceptionGroup)
    assert error.exceptions == (NO_SEAT,)
    assert log == [(5, "a begins"), (6, "a ends")]


@pytest.mark.parametrize("parallel", [False, True])
def test_cancellations_meanwhile_are_raised_when_all_is_undone(log: Log, parallel: bool) -> None:
    async def block() -> None:
        async with Saga(parallel=parallel) as saga:
            saga.add(log.undo, "a")
            saga.add(log.undo, "b")
            cancel_in(0.2, 0.4, 1.0)
            raise NO_SEAT

    error = run(block)
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("enough",)
    assert "no seat" in "".join(traceback.format_exception(error))
    assert log == (TOGETHER if parallel else ONE_AFTER_THE_OTHER)


def test_a_second_cancellation_does_not_cut_the_undos_off(log: Log) -> None:
    async def block() -> None:
        cancel_in(5, 5.5)
        async with Saga() as saga:
            saga.add(log.undo, "a")
            await asyncio.sleep(60)

    assert isinstance(run(block), asyncio.CancelledError)
    assert log == [(5, "a begins"), (6, "a ends")]


# --- undos that fail --------------------------------------------------------------------------


def test_a_failed_undo_does_not_stop_the_others(log: Log) -> None:
    def at_once() -> Coroutine[Any, Any, None]:
        raise TypeError("not even called")

    async def cancels_itself() -> None:
        raise asyncio.CancelledError("by itself")

    async def block() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "a")
            saga.add(log.fail, "b")
            saga.add(at_once)
            saga.add(cancels_itself)
            raise NO_SEAT

    error = run(block)
    assert isinstance(error, CompensationError)
    assert [type(failure) for failure in error.failures] == [asyncio.CancelledError, TypeError, LookupError]
    assert error.__cause__ is NO_SEAT
    for text in ("3 of the saga's undos failed", "by itself", "TypeError: not even called", "LookupError: b"):
        assert text in str(error)
    assert log == [(0, "b fails"), (0, "a begins"), (1, "a ends")]


def test_a_failed_undo_outweighs_the_cancellation_that_it_follows(log: Log) -> None:
    async def block() -> None:
        cancel_in(5)
        async with Saga() as saga:
            saga.add(log.fail, "a")
            await asyncio.sleep(60)

    error = run(block)
    assert isinstance(error, CompensationError)
    assert isinstance(error.__cause__, asyncio.CancelledError)


def test_a_failed_undo_outweighs_a_cancellation_meanwhile_and_shows_both(log: Log) -> None:
    async def block() -> None:
        async with Saga() as saga:
            saga.add(log.fail, "a")
            saga.add(log.undo, "b")
            cancel_in(0.5)
            raise NO_SEAT

    error = run(block)
    assert isinstance(error, CompensationError)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert FailureDetails.of(error).is_caused_by(ValueError)


# --- on demand --------------------------------------------------------------------------------


def test_undos_can_be_asked_for_and_run_once(log: Log) -> None:
    async def block() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "b")
            await saga.compensate()
            saga.add(log.undo, "a")
            raise NO_SEAT

    assert run(block) is NO_SEAT
    assert log == ONE_AFTER_THE_OTHER


def test_an_undo_may_add_another(log: Log) -> None:
    saga = Saga(parallel=True)

    async def undo() -> None:
        saga.add(log.undo, "b")

    saga.add(undo)
    assert run(saga.compensate) is None
    assert log == [(0, "b begins"), (1, "b ends")]


def test_failures_on_demand_show_what_was_being_handled(log: Log) -> None:
    saga = Saga()

    async def block() -> None:
        try:
            raise NO_SEAT
        except ValueError:
            await saga.compensate()

    for asked, cause in ((block, NO_SEAT), (saga.compensate, None)):
        saga.add(log.fail, "a")
        error = run(asked)
        assert isinstance(error, CompensationError)
        assert error.__cause__ is cause


# --- ends that are not the orchestration's ------------------------------------------------------


@pytest.mark.parametrize("end", [GeneratorExit, KeyboardInterrupt, SystemExit, NonDeterminismError])
def test_nothing_is_undone_nor_awaited_when_only_the_process_or_the_copy_in_memory_ends(
    log: Log, end: type[BaseException]
) -> None:
    async def main() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "a")
            await asyncio.sleep(0)

    coro = main()
    coro.send(None)
    with pytest.raises(end):
        coro.throw(end())
    assert log == []


@pytest.mark.parametrize("fires", [0, 1, 2], ids=["in the block", "in the last undo", "in the first undo"])
@pytest.mark.parametrize("grouped", [False, True])
def test_eviction_undoes_nothing(log: Log, fires: int, grouped: bool) -> None:
    loop = make_loop()

    async def grouping() -> None:
        try:
            await asyncio.sleep(5)
        except BaseException as error:  # as a task group may
            raise BaseExceptionGroup("ended", [error]) from None

    async def main() -> None:
        async with Saga() as saga:
            saga.add(log.undo, "a")
            saga.add(log.undo, "b")
            await (grouping() if grouped else asyncio.sleep(5))
            raise ValueError("no seat")

    task = loop.start(main())
    for _ in range(fires):
        loop.fire()
    before = list(log)
    loop.discard()
    assert log == before
    assert not task.done()
    assert task.get_coro().cr_frame is None  # it has ended, and did not wait for anything
    assert loop.problems == []


# --- in an orchestration ------------------------------------------------------------------------


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @registry.activity
    async def book(what: str) -> int:
        raise AssertionError("never run here")

    @registry.activity
    async def cancel(what: str, booking: int) -> None:
        raise AssertionError("never run here")

    @registry.orchestrator
    async def trip(ctx: OrchestrationContext, *, parallel: bool = False) -> str:
        async with Saga(parallel=parallel) as saga:
            for what in ("hotel", "car", "flight"):
                saga.add(cancel, what, await book(what))
        return "booked"

    return registry


def scheduled(history: list[HistoryEvent]) -> list[tuple[str, str]]:
    return [(event.name, event.input) for event in history if isinstance(event, TaskScheduled)]


def fail(driver: Driver, task_id: int, message: str) -> tuple[HistoryEvent, ...]:
    return driver.turn(TaskFailed(driver.now, task_id, FailureDetails("shop.Full", message)))


def check_replay(driver: Driver) -> None:
    """The history replays, from each of its turns on, wherever the instance was evicted."""
    ends = [n for n, event in enumerate(driver.history, 1) if isinstance(event, OrchestratorCompleted)]
    for end in ends:
        replayed(driver.registry, driver.history[:end]).discard()


BOOKED = [("book", '["hotel"]'), ("book", '["car"]'), ("book", '["flight"]')]


def test_undos_are_activities_in_history(registry: Registry) -> None:
    driver = Driver(registry, "trip")
    driver.start()
    driver.turn(driver.complete(1, 10))
    driver.turn(driver.complete(2, 20))
    fail(driver, 3, "no seat")
    assert scheduled(driver.history) == [*BOOKED, ("cancel", '["car",20]')]
    fail(driver, 4, "still driving")
    assert scheduled(driver.history)[4:] == [("cancel", '["hotel",10]')]
    completed = driver.turn(driver.complete(5, None))[-2]
    assert isinstance(completed, ExecutionCompleted)
    assert completed.failure is not None
    assert completed.failure.error_type == "durable.saga.CompensationError"
    assert "activity 'cancel' (task 4) failed: shop.Full: still driving" in completed.failure.message
    assert completed.failure.cause is not None
    assert completed.failure.cause.message == "activity 'book' (task 3) failed: shop.Full: no seat"
    assert completed.failure.is_caused_by(ActivityFailedError)
    check_replay(driver)


def test_the_failure_that_was_undone_is_the_outcome(registry: Registry) -> None:
    driver = Driver(registry, "trip")
    driver.start()
    driver.turn(driver.complete(1, 10))
    fail(driver, 2, "no car")
    completed = driver.turn(driver.complete(3, None))[-2]
    assert isinstance(completed, ExecutionCompleted)
    assert completed.failure is not None
    assert completed.failure.error_type == "durable.core.errors.ActivityFailedError"
    check_replay(driver)


def test_a_trip_that_is_booked_is_kept(registry: Registry) -> None:
    driver = Driver(registry, "trip")
    assert driver.run(lambda *_: 1).result == '"booked"'
    assert scheduled(driver.history) == BOOKED
    check_replay(driver)


def test_an_evicted_trip_leaves_its_undos_to_the_replay(registry: Registry) -> None:
    driver = Driver(registry, "trip")
    driver.start()
    driver.turn(driver.complete(1, 10))
    before = list(driver.history)
    driver.orchestration.discard()
    assert driver.services.reports == []
    driver.orchestration = replayed(registry, before)
    fail(driver, 2, "no car")
    assert scheduled(driver.history) == [*BOOKED[:2], ("cancel", '["hotel",10]')]


@pytest.mark.parametrize("in_undo", [False, True])
def test_a_saga_of_a_parked_instance_is_not_undone(registry: Registry, in_undo: bool) -> None:
    async def reads_a_file() -> None:
        await asyncio.to_thread(print)

    @registry.orchestrator
    async def impure(ctx: OrchestrationContext) -> None:
        async with Saga() as saga:
            saga.add(lambda: ctx.call_activity("cancel", "hotel", 1))
            if in_undo:
                saga.add(reads_a_file)
                raise ValueError("no seat")
            await reads_a_file()

    # Were the undo called, the turn would end with it scheduled, and commit it.
    with pytest.raises(NonDeterminismError, match="run_in_executor"):
        Driver(registry, "impure").start()
