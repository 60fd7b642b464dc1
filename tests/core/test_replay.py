"""Replay: what is decided live is decided again from history, and anything else is noticed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import NonDeterminismError, OrchestrationContext, Registry, StuckOrchestrationError
from durable.core.errors import FailureDetails, RunawayTurnError
from durable.core.events import (
    CustomStatusSet,
    ExecutionCompleted,
    TaskCancelRequested,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from durable.core.turns import split_turns

from .driving import START, Driver, replayed


@pytest.fixture
def registry() -> Registry:
    registry = Registry()

    @registry.activity
    async def step(n: int) -> int:
        raise AssertionError("never run here")

    @registry.activity
    async def other(n: int) -> int:
        raise AssertionError("never run here")

    @registry.orchestrator
    async def chain(ctx: OrchestrationContext, count: int) -> int:
        total = 0
        for n in range(count):
            total += await step(n)
        return total

    return registry


def names(events: Any) -> list[str]:
    return [type(event).__name__ for event in events]


def test_rows_of_a_turn_are_arrivals_then_the_turn_then_decisions(registry: Registry) -> None:
    driver = Driver(registry, "chain", 2)
    assert names(driver.start()) == [
        "ExecutionStarted",
        "OrchestratorStarted",
        "TaskScheduled",
        "OrchestratorCompleted",
    ]
    assert names(driver.turn(driver.complete(1, 5))) == [
        *("TaskCompleted", "OrchestratorStarted", "TaskScheduled", "OrchestratorCompleted")
    ]
    assert names(driver.turn(driver.complete(2, 6))) == [
        *("TaskCompleted", "OrchestratorStarted", "ExecutionCompleted", "OrchestratorCompleted")
    ]
    assert driver.state.output == "11"
    replayed(registry, driver.history)


def test_timers_take_ids_at_the_end_of_the_turn_and_leave_no_trace_when_cancelled_in_it(registry: Registry) -> None:
    @registry.orchestrator
    async def timers(ctx: OrchestrationContext) -> str:
        short = ctx.create_timer(timedelta(seconds=5))
        dropped = ctx.create_timer(timedelta(seconds=6))
        call = ctx.call_activity("step", 1)
        dropped.cancel()
        done, _ = await asyncio.wait([short, call], return_when=asyncio.FIRST_COMPLETED)
        return "timer" if short in done else "call"

    driver = Driver(registry, "timers")
    events = driver.start()
    assert next(e for e in events if isinstance(e, TaskScheduled)).task_id == 1
    assert [(e.task_id, e.fire_at) for e in events if isinstance(e, TimerCreated)] == [(2, START + 5_000_000)]
    events = driver.turn(TimerFired(driver.now, 2, START + 5_000_000), after=5)
    # The activity that nobody waits for any more is asked to stop.
    assert names(events[2:-1]) == ["TaskCancelRequested", "ExecutionCompleted"]
    assert driver.state.output == '"timer"'
    replayed(registry, driver.history)


def test_a_timer_of_an_earlier_turn_that_is_given_up_is_recorded(registry: Registry) -> None:
    @registry.orchestrator
    async def bounded(ctx: OrchestrationContext) -> int:
        async with asyncio.timeout(100):
            value: int = await ctx.call_activity("step", 1)
        await ctx.call_activity("step", 2)
        return value

    driver = Driver(registry, "bounded")
    driver.start()
    assert driver.state.timers
    events = driver.turn(driver.complete(1, 1))
    assert [e.task_id for e in events if isinstance(e, TaskCancelRequested)] == [2]
    assert not driver.state.timers
    driver.turn(driver.complete(3, 1))
    replayed(registry, driver.history)


def test_a_time_in_the_past_fires_in_the_same_turn(registry: Registry) -> None:
    @registry.orchestrator
    async def now(ctx: OrchestrationContext) -> list[str]:
        order: list[str] = []
        asyncio.get_running_loop().call_later(-1, order.append, "late")
        await ctx.create_timer(ctx.now - timedelta(days=1))
        await asyncio.sleep(0)
        return order

    driver = Driver(registry, "now")
    assert isinstance(driver.start()[-2], ExecutionCompleted)
    assert driver.state.output == '["late"]'


def test_ten_years_are_one_timer(registry: Registry) -> None:
    @registry.orchestrator
    async def patient(ctx: OrchestrationContext) -> float:
        before = ctx.now
        await asyncio.sleep(10 * 365 * 86400)
        return (ctx.now - before).total_seconds()

    driver = Driver(registry, "patient")
    completed = driver.run(lambda *_: None)
    assert completed.result == str(10 * 365 * 86400.0)
    assert sum(isinstance(e, TimerCreated) for e in driver.history) == 1
    replayed(registry, driver.history)


def test_the_last_custom_status_of_a_turn_is_recorded(registry: Registry) -> None:
    @registry.orchestrator
    async def status(ctx: OrchestrationContext) -> None:
        for n in range(5):
            ctx.set_custom_status(n)
        await ctx.call_activity("step", 1)
        ctx.set_custom_status("end")

    driver = Driver(registry, "status")
    driver.start()
    driver.turn(driver.complete(1, 0))
    assert [e.status for e in driver.history if isinstance(e, CustomStatusSet)] == ["4", '"end"']
    replayed(registry, driver.history)


# --- non-determinism ----------------------------------------------------------------------------


def changed(registry: Registry, name: str, body: Any) -> Registry:
    """The same registry after a deploy that changed one orchestrator."""
    new = Registry()
    new.activities = registry.activities
    new.orchestrator(name=name)(body)
    return new


def test_a_changed_activity_names_both_sides_and_both_lines(registry: Registry) -> None:
    driver = Driver(registry, "chain", 2)
    driver.start()
    driver.turn(driver.complete(1, 1))

    async def chain(ctx: OrchestrationContext, count: int) -> int:
        await ctx.call_activity("step", 0)
        result: int = await ctx.call_activity("other", 0)
        return result

    with pytest.raises(NonDeterminismError) as caught:
        replayed(changed(registry, "chain", chain), driver.history)
    message = str(caught.value)
    assert "at event 6" in message  # counted from 0
    assert "expected TaskScheduled 'step' (task 2) at test_replay.py:" in message
    assert "got TaskScheduled 'other' (task 2) at test_replay.py:" in message
    assert "'instance'" in message


def test_missing_and_additional_decisions_are_noticed(registry: Registry) -> None:
    driver = Driver(registry, "chain", 1)
    driver.start()

    async def fewer(ctx: OrchestrationContext, count: int) -> int:
        await asyncio.sleep(1)
        return 0

    async def none(ctx: OrchestrationContext, count: int) -> int:
        return 0

    async def more(ctx: OrchestrationContext, count: int) -> list[int]:
        return list(await asyncio.gather(ctx.call_activity("step", 0), ctx.call_activity("step", 1)))

    for body, message in (
        (fewer, "got TimerCreated"),
        (none, "got ExecutionCompleted"),
        (more, "expected nothing more"),
    ):
        with pytest.raises(NonDeterminismError, match=message):
            replayed(changed(registry, "chain", body), driver.history)


def test_code_that_decides_less_and_waits_on_is_noticed(registry: Registry) -> None:
    @registry.orchestrator
    async def both(ctx: OrchestrationContext) -> None:
        await asyncio.gather(ctx.call_activity("step", 0), ctx.call_activity("step", 1))

    driver = Driver(registry, "both")
    driver.start()

    async def one(ctx: OrchestrationContext) -> None:
        await ctx.call_activity("step", 0)

    with pytest.raises(NonDeterminismError, match=r"expected TaskScheduled 'step' \(task 2\).*got nothing more"):
        replayed(changed(registry, "both", one), driver.history)


def test_catching_everything_does_not_hide_it(registry: Registry) -> None:
    driver = Driver(registry, "chain", 1)
    driver.start()

    async def greedy(ctx: OrchestrationContext, count: int) -> str:
        try:
            return str(await ctx.call_activity("other", 0))
        except BaseException:
            return str(await ctx.call_activity("step", 0))

    with pytest.raises(NonDeterminismError, match="got TaskScheduled 'other'"):
        replayed(changed(registry, "chain", greedy), driver.history)


def test_changed_input_is_allowed_but_strict_replay_notices(registry: Registry) -> None:
    driver = Driver(registry, "chain", 1)
    driver.start()

    async def chain(ctx: OrchestrationContext, count: int) -> int:
        result: int = await ctx.call_activity("step", 99)
        return result

    new = changed(registry, "chain", chain)
    replayed(new, driver.history, strict=False)
    with pytest.raises(NonDeterminismError):
        replayed(new, driver.history, strict=True)


def test_refused_calls_park_rather_than_fail(registry: Registry) -> None:
    @registry.orchestrator
    async def threads(ctx: OrchestrationContext) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(NonDeterminismError, match=r"run_in_executor.*test_replay.py:\d+.*activity"):
        Driver(registry, "threads").start()


def test_an_orchestrator_that_nothing_can_wake_is_stuck(registry: Registry) -> None:
    @registry.orchestrator
    async def stuck(ctx: OrchestrationContext) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckOrchestrationError, match=r"main at test_replay.py:\d+"):
        Driver(registry, "stuck").start()


def test_a_turn_that_never_rests_is_stopped(registry: Registry) -> None:
    @registry.orchestrator
    async def spinning(ctx: OrchestrationContext) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RunawayTurnError, match="without coming to rest"):
        Driver(registry, "spinning").start()


def test_user_errors_fail_the_instance_and_replay_the_same(registry: Registry) -> None:
    @registry.orchestrator
    async def fails(ctx: OrchestrationContext) -> None:
        try:
            await ctx.call_activity("step", 1)
        except Exception as error:
            raise ValueError("wrapped") from error

    driver = Driver(registry, "fails")
    driver.start()
    failure = FailureDetails("builtins.KeyError", "gone", "a stack")
    completed = driver.turn(TaskFailed(driver.now, 1, failure))[-2]
    assert isinstance(completed, ExecutionCompleted)
    assert completed.status == "Failed"
    assert completed.failure is not None
    assert completed.failure.is_caused_by("ActivityFailedError")
    replayed(registry, driver.history)


def test_a_patch_is_not_asked_for_by_code_that_is_thrown_out(registry: Registry) -> None:
    went_on: list[str] = []

    @registry.orchestrator
    async def cleans_up(ctx: OrchestrationContext) -> None:
        try:
            await ctx.call_activity("step", 1)
        finally:
            ctx.patched("tidier")
            went_on.append("clean-up")

    driver = Driver(registry, "cleans_up")
    driver.start()
    driver.orchestration.discard()
    assert went_on == []
    replayed(registry, driver.history).discard()
    assert went_on == []


def test_a_result_that_json_cannot_carry_fails_the_instance(registry: Registry) -> None:
    @registry.orchestrator
    async def odd(ctx: OrchestrationContext) -> object:
        return object()

    completed = Driver(registry, "odd").start()[-2]
    assert isinstance(completed, ExecutionCompleted)
    assert completed.failure is not None
    assert "the result of orchestrator 'odd'" in completed.failure.message


def test_half_a_turn_is_not_a_history(registry: Registry) -> None:
    driver = Driver(registry, "chain", 1)
    events = driver.start()
    for broken in (events[:-1], events[1:3], (*events, events[3])):
        with pytest.raises(ValueError, match=r"out of order|ends inside"):
            list(split_turns(broken))


# --- random programs ----------------------------------------------------------------------------

programs = st.recursive(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 9)),
        st.tuples(st.just("sleep"), st.floats(0, 100, allow_nan=False)),
        st.tuples(st.just("status"), st.integers(0, 9)),
        st.tuples(st.just("uuid"), st.just(0)),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("gather"), st.lists(inner, min_size=1, max_size=4)),
        st.tuples(st.just("sequence"), st.lists(inner, min_size=1, max_size=4)),
        st.tuples(st.just("first"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("timeout"), inner),
    ),
    max_leaves=12,
)


async def interpret(ctx: OrchestrationContext, program: Any) -> Any:
    kind, argument = program
    match kind:
        case "call":
            return await ctx.call_activity("step", argument)
        case "sleep":
            await asyncio.sleep(argument)
            return ctx.now.isoformat()
        case "status":
            ctx.set_custom_status(argument)
            return argument
        case "uuid":
            return [str(ctx.new_uuid()), ctx.random.random()]
        case "gather":
            return await asyncio.gather(*[interpret(ctx, one) for one in argument])
        case "sequence":
            return [await interpret(ctx, one) for one in argument]
        case "first":
            tasks = [asyncio.create_task(interpret(ctx, one)) for one in argument]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return [task.result() for task in tasks if task in done]
        case _:
            try:
                return await asyncio.wait_for(interpret(ctx, argument), 10)
            except TimeoutError:
                return "timed out"


@settings(max_examples=300, deadline=None)
@given(program=programs, order=st.randoms(use_true_random=False))
def test_any_program_replays_from_any_prefix_of_its_history(program: Any, order: Any) -> None:
    registry = Registry()

    @registry.activity
    async def step(n: int) -> int:
        raise AssertionError("never run here")

    @registry.orchestrator
    async def interpreter(ctx: OrchestrationContext, program: Any) -> Any:
        return await interpret(ctx, program)

    driver = Driver(registry, "interpreter", program)
    events = driver.start()
    while not isinstance(events[-2], ExecutionCompleted):
        arrivals: list[Any] = [driver.complete(t.task_id, t.task_id * 10) for t in driver.state.activities.values()]
        if driver.state.timers:
            next_fire = min(driver.state.timers.values())
            arrivals += driver.state.due_timers(next_fire)
        order.shuffle(arrivals)
        chosen = arrivals[: order.randint(1, len(arrivals))]
        fires = [e.fire_at for e in chosen if isinstance(e, TimerFired)]
        driver.now = max([driver.now, *fires])
        events = driver.turn(*chosen, after=order.random())
    assert events[-2].status == "Completed", events[-2].failure
    whole = list(split_turns(driver.history))
    for length in range(1, len(whole) + 1):
        rows = [row for turn in whole[:length] for row in _rows(turn)]
        replayed(registry, rows).discard()


def _rows(turn: Any) -> list[Any]:
    from durable.core.events import OrchestratorCompleted, OrchestratorStarted

    return [*turn.arrived, OrchestratorStarted(turn.timestamp), *turn.decisions, OrchestratorCompleted(turn.timestamp)]
