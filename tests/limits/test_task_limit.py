"""What an orchestrator may have open, and ask for in one turn: a call beyond is refused, the same at each replay."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from durable import EntityId, OrchestrationContext, Registry, RuntimeStatus, TaskLimitError
from durable.core import events as ev
from durable.core import outstanding, replay
from durable.core.outstanding import MAX_TASKS
from tests.core.driving import Driver, replayed

FEW = 20


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small limit: what is tested is where it bites."""
    for module in (outstanding, replay):
        monkeypatch.setattr(module, "MAX_TASKS", FEW)


def driver_of(orchestrator: Any) -> Driver:
    """The orchestrator, which is given what it may call, after its first turn."""
    registry = Registry()

    @registry.activity
    async def work(number: int) -> int:
        return number

    @registry.entity
    class Counter:
        def add(self, number: int) -> int:
            return number

    @registry.orchestrator
    async def child(ctx: OrchestrationContext, number: int) -> int:
        return number

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> Any:
        return await orchestrator(ctx)

    driver = Driver(registry, "main")
    driver.start()
    return driver


def ended(driver: Driver) -> ev.ExecutionCompleted:
    """How it has ended; its history replays to the same."""
    completed = driver.history[-2]
    assert isinstance(completed, ev.ExecutionCompleted)
    replayed(driver.registry, driver.history)
    return completed


def opened(driver: Driver, *kinds: type[Any]) -> int:
    """How many events of these kinds it has decided."""
    return sum(isinstance(event, kinds) for event in driver.history)


ASKS: dict[str, Any] = {
    "activity 'work'": lambda ctx, number: ctx.call_activity("work", number),
    "orchestrator 'child'": lambda ctx, number: ctx.call_sub_orchestrator("child", number),
    "an operation of '@counter@one'": lambda ctx, number: ctx.call_entity(EntityId("counter", "one"), "add", number),
    "a timer": lambda ctx, number: ctx.create_timer(timedelta(seconds=1 + number)),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("last", ASKS)
@pytest.mark.parametrize("first", ASKS)
def test_what_is_open_is_counted_together_and_one_more_is_refused(first: str, last: str) -> None:
    async def orchestrator(ctx: OrchestrationContext) -> str:
        waiting = [asyncio.ensure_future(ASKS[first](ctx, number)) for number in range(FEW)]
        try:
            await ASKS[last](ctx, 0)
        except TaskLimitError as error:
            return str(error)
        finally:
            for one in waiting:
                one.cancel()
        return "it was not refused"

    result = ended(driver_of(orchestrator)).result
    assert result is not None
    assert f"orchestrator 'main' asks for {last} with {FEW} activities, sub-orch" in result


@pytest.mark.usefixtures("few")
def test_an_instance_that_does_not_mind_the_error_fails_with_it() -> None:
    async def orchestrator(ctx: OrchestrationContext) -> None:
        await asyncio.gather(*[ctx.call_activity("work", number) for number in range(FEW + 1)])

    driver = driver_of(orchestrator)
    completed = ended(driver)
    assert completed.status == RuntimeStatus.FAILED
    assert completed.failure is not None
    assert completed.failure.is_caused_by(TaskLimitError)
    assert opened(driver, ev.TaskScheduled) == FEW
    assert opened(driver, ev.TaskCancelRequested) == FEW


@pytest.mark.usefixtures("few")
def test_what_has_ended_makes_room() -> None:
    async def orchestrator(ctx: OrchestrationContext) -> int:
        done = 0
        waiting = {asyncio.ensure_future(ctx.call_activity("work", number)) for number in range(FEW)}
        while done < 3 * FEW:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done += len(ended)
            waiting |= {asyncio.ensure_future(ctx.call_activity("work", 0)) for _ in ended}
        return done

    driver = driver_of(orchestrator)
    while driver.state.activities:
        driver.turn(driver.complete(min(driver.state.activities), 1))
    assert ended(driver).result == str(3 * FEW)


@pytest.mark.usefixtures("few")
def test_timers_that_are_cancelled_in_their_turn_do_not_count() -> None:
    async def orchestrator(ctx: OrchestrationContext) -> str:
        for _ in range(5 * FEW):  # more than can be open
            ctx.create_timer(timedelta(hours=1)).cancel()
            await asyncio.sleep(0)
        return "done"

    assert ended(driver_of(orchestrator)).result == '"done"'


@pytest.mark.usefixtures("few")
def test_an_event_is_not_lost_to_a_wait_that_was_refused_its_timeout() -> None:
    async def orchestrator(ctx: OrchestrationContext) -> str:
        waiting = [asyncio.ensure_future(ASKS["a timer"](ctx, number)) for number in range(FEW)]
        with pytest.raises(TaskLimitError):
            await ctx.wait_for_external_event("news", str, timeout=5)
        waiting.pop().cancel()
        return await ctx.wait_for_external_event("news", str)

    driver = driver_of(orchestrator)
    driver.turn(ev.EventRaised(driver.now, "news", '"here"', "m1"))
    assert ended(driver).result == '"here"'


REQUESTS: dict[str, Any] = {
    "sending event 'news'": lambda ctx: ctx.send_event("another", "news", 1),
    "an operation of '@counter@one'": lambda ctx: ctx.signal_entity(EntityId("counter", "one"), "add", 1),
    "orchestrator 'child'": lambda ctx: ctx.start_orchestration("child", 1),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("what", REQUESTS)
def test_a_turn_can_ask_for_so_much_and_no_more(what: str) -> None:
    async def orchestrator(ctx: OrchestrationContext) -> str:
        for _ in range(2):
            for _ in range(FEW):
                REQUESTS[what](ctx)
            await asyncio.sleep(1)  # another turn, another allowance
        try:
            for _ in range(FEW + 1):
                REQUESTS[what](ctx)
        except TaskLimitError as error:
            return str(error)
        return "it was not refused"

    driver = driver_of(orchestrator)
    for _ in range(2):
        driver.now = min(driver.state.timers.values())
        driver.turn(*driver.state.due_timers(driver.now), after=0)
    result = ended(driver).result
    assert result is not None
    assert f"orchestrator 'main' asks for {what} after {FEW} other requests in one turn" in result
    kinds = (ev.EventSent, ev.EntityOperationSignaled, ev.SubOrchestrationInstanceCreated)
    assert opened(driver, *kinds) == 3 * FEW


def test_the_limit_itself_is_reached_and_not_passed() -> None:
    async def orchestrator(ctx: OrchestrationContext) -> str:
        waiting = [asyncio.ensure_future(ctx.call_activity("work", number)) for number in range(MAX_TASKS)]
        try:
            await ctx.call_activity("work", MAX_TASKS)
        except TaskLimitError:
            return f"{len(waiting)} are open"
        return "it was not refused"

    driver = driver_of(orchestrator)
    assert ended(driver).result == f'"{MAX_TASKS} are open"'
    assert opened(driver, ev.TaskScheduled) == MAX_TASKS
