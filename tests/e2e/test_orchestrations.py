"""What users write, on every store, through the public API."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import anyio
import pytest
from pydantic import BaseModel

from durable import (
    ActivityContext,
    ActivityFailedError,
    InstanceExistsError,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    PayloadError,
    RuntimeStatus,
    TaskHub,
    UnknownFunctionError,
)
from durable.core import events as ev

DEADLINE = 30


async def run(hub: TaskHub, orchestrator: Any, *args: Any, **kwargs: Any) -> Any:
    handle = await hub.start(orchestrator, *args, **kwargs)
    return await handle.result(DEADLINE)


async def failure_of(hub: TaskHub, orchestrator: Any, *args: Any) -> OrchestrationFailedError:
    handle = await hub.start(orchestrator, *args)
    with pytest.raises(OrchestrationFailedError) as caught:
        await handle.result(DEADLINE)
    return caught.value


async def test_the_chain_of_three_reads_like_the_fields_table(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def say_hello(city: str) -> str:
        return f"Hello {city}!"

    @hub.orchestrator
    async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
        return [await say_hello(city) for city in cities]

    async with hub.worker():
        handle = await hub.start(hello_sequence, ["Tokyo", "Seattle", "London"], instance_id="greeting")
        assert await handle.result(DEADLINE) == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
        rows = [type(event).__name__ for event in await handle.history()]
        status = await handle.status()
    turn = ["TaskCompleted", "OrchestratorStarted", "TaskScheduled", "OrchestratorCompleted"]
    assert rows == [
        *("ExecutionStarted", "OrchestratorStarted", "TaskScheduled", "OrchestratorCompleted"),
        *turn,
        *turn,
        *("TaskCompleted", "OrchestratorStarted", "ExecutionCompleted", "OrchestratorCompleted"),
    ]
    assert status.runtime_status is RuntimeStatus.COMPLETED
    assert status.instance_id == "greeting"
    assert status.input == [["Tokyo", "Seattle", "London"]]
    assert status.output == ["Hello Tokyo!", "Hello Seattle!", "Hello London!"]
    assert status.completed_at is not None
    assert status.created_at <= status.completed_at <= datetime.now(UTC)


async def test_asyncio_primitives_are_durable(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def square(n: int) -> int:
        return n * n

    @hub.activity
    def cube(n: int) -> int:
        return n * n * n

    @hub.orchestrator
    async def primitives(ctx: OrchestrationContext) -> dict[str, Any]:
        out: dict[str, Any] = {}
        out["gather"] = await asyncio.gather(*[square(n) for n in range(5)], cube(3))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(square(n)) for n in (6, 7)]
        out["group"] = [task.result() for task in tasks]
        done, pending = await asyncio.wait([asyncio.ensure_future(square(n)) for n in (8, 9)])
        out["wait"] = sorted(future.result() for future in done)
        assert not pending
        out["completed"] = sorted([await future for future in asyncio.as_completed([square(2), cube(2)])])
        out["wait_for"] = await asyncio.wait_for(square(10), 60)
        futures = ctx.call_activity(square, 11), ctx.call_activity("cube", 2)
        out["futures"] = [await futures[1], await futures[0]]
        results: list[int] = []

        async def collect(n: int) -> None:
            results.append(await square(n))

        async with anyio.create_task_group() as anyio_group:
            anyio_group.start_soon(collect, 12)
            anyio_group.start_soon(square, 13)
        out["anyio"] = results
        return out

    async with hub.worker():
        assert await run(hub, primitives) == {
            "gather": [0, 1, 4, 9, 16, 27],
            "group": [36, 49],
            "wait": [64, 81],
            "completed": [4, 8],
            "wait_for": 100,
            "futures": [8, 121],
            "anyio": [144],
        }


async def test_timers_wait_and_time_stands_still_between_awaits(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def sleeper(ctx: OrchestrationContext) -> list[float]:
        start = ctx.now
        assert ctx.now == start == ctx.current_utc_datetime
        await asyncio.sleep(0.3)
        after_sleep = ctx.now
        await ctx.create_timer(timedelta(seconds=0.1))
        await ctx.create_timer(start)  # in the past: at once
        await ctx.create_timer(ctx.now + timedelta(seconds=0.1))
        return [(after_sleep - start).total_seconds(), (ctx.now - after_sleep).total_seconds()]

    async with hub.worker():
        slept, then = await run(hub, sleeper)
    assert 0.3 <= slept < DEADLINE
    assert 0.2 <= then < DEADLINE


async def test_timeout_cancels_the_activity_and_the_losing_timer_is_given_up(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    cancelled = asyncio.Event()

    @hub.activity
    async def endless() -> None:
        await hub.get(ActivityContext.current().instance_id).raise_event("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @hub.activity
    async def quick() -> str:
        return "quick"

    @hub.orchestrator
    async def impatient(ctx: OrchestrationContext) -> list[str]:
        out = []
        call = asyncio.create_task(endless())
        await ctx.wait_for_external_event("begun")
        try:
            async with asyncio.timeout(0.05):
                await call
        except TimeoutError:
            out.append("timed out")
        async with asyncio.timeout(3600):
            out.append(await quick())
        return out

    async with hub.worker():
        handle = await hub.start(impatient)
        assert await handle.result(DEADLINE) == ["timed out", "quick"]
        await asyncio.wait_for(cancelled.wait(), DEADLINE)
        history = await handle.history()
    # The activity that was given up, and the timer of an hour that was not needed.
    scheduled = {e.task_id: e for e in history if isinstance(e, ev.TaskScheduled | ev.TimerCreated)}
    given_up = [scheduled[e.task_id] for e in history if isinstance(e, ev.TaskCancelRequested)]
    assert [type(e).__name__ for e in given_up] == ["TaskScheduled", "TimerCreated"]
    assert [e.name for e in given_up if isinstance(e, ev.TaskScheduled)] == ["endless"]


async def test_failures_travel_with_type_message_stack_and_cause(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def fails(text: str) -> None:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(f"bad {text}") from error

    @hub.orchestrator
    async def catches(ctx: OrchestrationContext) -> str:
        try:
            await fails("thing")
        except ActivityFailedError as error:
            assert error.details.is_caused_by(KeyError)
            assert error.details.is_caused_by("ValueError")
            assert not error.details.is_caused_by(TypeError)
            return f"{error.details.error_type}: {error.details.message}"
        return "not reached"

    @hub.orchestrator
    async def lets_through(ctx: OrchestrationContext) -> None:
        await fails("other")

    @hub.orchestrator
    async def finds_all(ctx: OrchestrationContext) -> list[str]:
        found = await asyncio.gather(fails("a"), fails("b"), return_exceptions=True)
        return [str(error) for error in found]

    async with hub.worker():
        assert await run(hub, catches) == "builtins.ValueError: bad thing"
        error = await failure_of(hub, lets_through)
        both = await run(hub, finds_all)
    assert error.details.error_type == "durable.core.errors.ActivityFailedError"
    assert "bad other" in error.details.message
    assert "in lets_through" in (error.details.stack_trace or "")
    assert ["bad a" in both[0], "bad b" in both[1]] == [True, True]


async def test_task_group_failure_cancels_the_siblings(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def boom() -> None:
        raise RuntimeError("boom")

    @hub.activity
    async def endless() -> None:
        await asyncio.Event().wait()

    @hub.orchestrator
    async def grouped(ctx: OrchestrationContext) -> str:
        answer = "no error"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(endless())
                group.create_task(boom())
                group.create_task(asyncio.sleep(3600))
        except* ActivityFailedError as caught:
            answer = str(len(caught.exceptions))
        return answer

    async with hub.worker():
        handle = await hub.start(grouped)
        assert await handle.result(DEADLINE) == "1"
        cancelled = [e for e in await handle.history() if isinstance(e, ev.TaskCancelRequested)]
    assert len(cancelled) == 2  # the endless activity and the timer


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    price: Decimal
    due: date


class Order(BaseModel):
    order_id: UUID
    lines: list[Line]
    colour: Colour = Colour.RED
    weight: timedelta = timedelta(seconds=1.5)


async def test_payloads_come_back_by_annotation(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    order = Order(order_id=UUID(int=7), lines=[Line("a", Decimal("1.10"), date(2026, 1, 2))])

    @hub.activity
    async def price(order: Order, extra: tuple[int, ...], *, discount: Decimal = Decimal(0)) -> Decimal:
        assert isinstance(order.lines[0], Line)
        assert isinstance(extra, tuple)
        return order.lines[0].price + sum(extra) - discount

    @hub.orchestrator
    async def total(ctx: OrchestrationContext, order: Order, tags: set[str]) -> tuple[Decimal, Order]:
        assert isinstance(tags, set)
        return await price(order, (1, 2), discount=Decimal("0.05")), order

    async with hub.worker():
        assert await run(hub, total, order, {"x", "y"}) == (Decimal("4.05"), order)


async def test_bad_input_fails_the_call_and_schedules_nothing(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def takes_int(number: int) -> int:
        return number

    @hub.activity
    async def returns_wrong() -> int:
        return "not a number"  # type: ignore[return-value]

    @hub.orchestrator
    async def careful(ctx: OrchestrationContext, text: str) -> list[str]:
        seen = []
        for bad in ("x", object(), float("nan")):
            try:
                await takes_int(bad)  # type: ignore[arg-type]
            except PayloadError as error:
                seen.append(str(error))
        try:
            await takes_int(1, 2)  # type: ignore[call-arg]
        except TypeError as error:
            seen.append(str(error))
        try:
            await returns_wrong()
        except PayloadError as error:
            seen.append(str(error))
        return seen

    async with hub.worker():
        with pytest.raises(PayloadError, match=r"orchestrator 'careful': argument text does not fit.*\(got 5\)"):
            await hub.start(careful, 5)
        handle = await hub.start(careful, "go")
        messages = await handle.result(DEADLINE)
        scheduled = [e.name for e in await handle.history() if isinstance(e, ev.TaskScheduled)]
    assert scheduled == ["returns_wrong"]
    assert len(messages) == 5
    assert "argument number" in messages[0]
    assert "takes_int" in messages[0]
    assert "too many positional arguments" in messages[3]
    assert "the result of activity 'returns_wrong'" in messages[4]


async def test_start_rules(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def echo(ctx: OrchestrationContext, value: Any = None) -> Any:
        return value

    async with hub.worker():
        first = await hub.start(echo, 1, instance_id="one")
        assert await first.result(DEADLINE) == 1
        with pytest.raises(InstanceExistsError, match="'one' exists already with status Completed") as caught:
            await hub.start(echo, 2, instance_id="one")
        assert caught.value.status == "Completed"
        with pytest.raises(ValueError, match="must not start with '@'"):
            await hub.start(echo, instance_id="@one")
        for bad in ("", "a/b", "a\\b", "a#b", "a?b", "a\nb", "x" * 257):
            with pytest.raises(ValueError, match="instance id"):
                await hub.start(echo, instance_id=bad)
        with pytest.raises(UnknownFunctionError, match="did you mean 'echo'"):
            await hub.start("ecco")
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await hub.get("nobody").result(DEADLINE)
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await hub.get("nobody").status()
        assert await (await hub.start("echo", {"by": "name"})).result(DEADLINE) == {"by": "name"}
        generated = await hub.start(echo)
        assert len(generated.instance_id) == 32
        unusual = "ü x$%&'\"{}:;,.!é字"
        assert await (await hub.start(echo, 3, instance_id=unusual)).result(DEADLINE) == 3
        assert (await hub.get(unusual).status()).instance_id == unusual


async def test_concurrent_starts_of_one_id_make_one_instance(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def echo(ctx: OrchestrationContext, value: int) -> int:
        return value

    async with hub.worker():
        starts = [hub.start(echo, n, instance_id="same") for n in range(10)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        handles = [one for one in outcomes if not isinstance(one, BaseException)]
        assert len(handles) == 1
        assert all(isinstance(one, InstanceExistsError) for one in outcomes if one not in handles)
        assert await handles[0].result(DEADLINE) == (await hub.get("same").status()).input[0]


async def test_custom_status_shows_progress_and_result_waits_do_not_disturb(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    go_on = asyncio.Event()

    @hub.activity
    async def gate() -> None:
        await go_on.wait()

    @hub.orchestrator
    async def progress(ctx: OrchestrationContext) -> str:
        ctx.set_custom_status({"done": 0})
        ctx.set_custom_status({"done": 1})
        await gate()
        ctx.set_custom_status(None)
        return "end"

    async with hub.worker():
        handle = await hub.start(progress)
        with pytest.raises(TimeoutError):
            await handle.result(0.2)
        deadline = time.monotonic() + DEADLINE
        while (status := await handle.status()).custom_status != {"done": 1} and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert status.custom_status == {"done": 1}
        assert status.runtime_status is RuntimeStatus.RUNNING
        go_on.set()
        assert await handle.result(DEADLINE) == "end"
        assert (await handle.status()).custom_status is None
        assert sum(isinstance(e, ev.CustomStatusSet) for e in await handle.history()) == 2


async def test_deterministic_stand_ins(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def nothing() -> None: ...

    @hub.orchestrator
    async def values(ctx: OrchestrationContext) -> list[str]:
        first = [str(ctx.new_uuid()), str(ctx.random.random()), ctx.now.isoformat()]
        await nothing()
        assert OrchestrationContext.current() is ctx
        return [*first, str(ctx.new_uuid()), str(ctx.random.randrange(1000)), ctx.instance_id, ctx.execution_id]

    async with hub.worker():
        one = await run(hub, values)
        two = await run(hub, values)
    assert UUID(one[0]).version == 5
    assert len({one[0], one[3], two[0], two[3]}) == 4
    assert one[1] != two[1]


async def test_activity_knows_its_call_in_coroutines_and_threads(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def coroutine() -> str:
        return ActivityContext.current().idempotency_key

    @hub.activity
    def thread() -> str:
        context = ActivityContext.current()
        assert context.attempt == 1
        assert context.name == "thread"
        return context.idempotency_key

    @hub.orchestrator
    async def keys(ctx: OrchestrationContext) -> list[str]:
        return [await coroutine(), await thread(), f"{ctx.instance_id}/{ctx.execution_id}"]

    async with hub.worker():
        first, second, base = await run(hub, keys)
    assert [first, second] == [f"{base}/1", f"{base}/2"]
    with pytest.raises(RuntimeError, match="outside an activity"):
        ActivityContext.current()


async def test_activity_timeout(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity(timeout=timedelta(seconds=0.1))
    async def slow() -> None:
        await asyncio.sleep(60)

    @hub.activity
    async def own_timeout() -> None:
        raise TimeoutError("my own")

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext) -> list[str]:
        calls = (slow, slow.options(timeout=timedelta(seconds=0.05)), own_timeout.options(timeout=timedelta(hours=1)))
        found = await asyncio.gather(*[call() for call in calls], return_exceptions=True)
        return [error.details.error_type for error in found if isinstance(error, ActivityFailedError)]

    async with hub.worker():
        kinds = await run(hub, waits)
    assert kinds == ["durable.core.errors.ActivityTimeoutError"] * 2 + ["builtins.TimeoutError"]


async def test_query_by_status_name_prefix_and_time(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def fine(ctx: OrchestrationContext) -> None: ...

    @hub.orchestrator
    async def broken(ctx: OrchestrationContext) -> None:
        raise ValueError("no")

    async def ids(**conditions: Any) -> list[str]:
        return sorted([status.instance_id async for status in hub.query(**conditions)])

    async with hub.worker():
        before = datetime.now(UTC)
        for n in range(5):
            await run(hub, fine, instance_id=f"fine-{n}")
        await failure_of(hub, broken)
        named = [f"fine-{n}" for n in range(5)]
        assert await ids(name="fine") == named
        assert await ids(id_prefix="fine-", page_size=2) == named
        assert await ids(status=RuntimeStatus.COMPLETED, created_between=(before, None)) == named
        assert len(await ids(status=[RuntimeStatus.COMPLETED, RuntimeStatus.FAILED])) == 6
        assert len(await ids(status=RuntimeStatus.FAILED, name="broken")) == 1
        assert await ids(created_between=(None, before)) == []
        assert await ids(id_prefix="{'$gt': ''}") == []
        with pytest.raises(ValueError, match="page_size"):
            await ids(page_size=0)
        with pytest.raises(ValueError, match="time zone"):
            await ids(created_between=(datetime(2026, 1, 1), None))  # noqa: DTZ001 - that is the mistake


async def test_large_values_go_through_every_place(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    big = "x" * 1_000_000

    @hub.activity
    async def double(text: str) -> str:
        return text + text

    @hub.orchestrator
    async def large(ctx: OrchestrationContext, text: str) -> str:
        ctx.set_custom_status(text[:300_000])
        return await double(text)

    async with hub.worker():
        handle = await hub.start(large, big)
        assert await handle.result(60) == big + big
        status = await handle.status()
        history = await handle.history()
    assert status.input == [big]
    assert status.output == big + big
    assert status.custom_status == big[:300_000]
    assert [len(e.result) for e in history if isinstance(e, ev.TaskCompleted)] == [2_000_002]


async def test_a_background_task_is_cancelled_when_the_orchestrator_returns(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    seen: list[str] = []

    @hub.activity
    async def endless() -> None:
        await hub.get(ActivityContext.current().instance_id).raise_event("begun")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("activity cancelled")

    @hub.orchestrator
    async def leaves(ctx: OrchestrationContext) -> str:
        async def background() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append("background cancelled")

        kept = [asyncio.create_task(endless()), asyncio.create_task(background())]
        await ctx.wait_for_external_event("begun")
        return f"left {len(kept)} running"

    async with hub.worker():
        assert await run(hub, leaves) == "left 2 running"
    assert sorted(seen) == ["activity cancelled", "background cancelled"]


async def test_outside_an_orchestrator_definitions_are_plain_functions() -> None:
    hub = TaskHub("memory://")

    @hub.activity
    async def add(a: int, b: int) -> int:
        return a + b

    @hub.activity
    def sub(a: int, b: int) -> int:
        return a - b

    assert await add(1, 2) == 3
    assert await sub(3, 2) == 1
    assert sub.fn(5, 2) == 3


async def test_many_instances_at_once(hub_url: str) -> None:
    hub = TaskHub(hub_url)
    rng = random.Random(7)

    @hub.activity
    async def add(a: int, b: int) -> int:
        return a + b

    @hub.orchestrator
    async def summing(ctx: OrchestrationContext, numbers: list[int]) -> int:
        total = 0
        for number in numbers:
            total = await add(total, number)
        return total

    async with hub.worker(cache_instances=5):  # most are evicted between their turns
        numbers = [[rng.randrange(100) for _ in range(rng.randrange(6))] for _ in range(60)]
        results = await asyncio.gather(*[run(hub, summing, one) for one in numbers])
    assert results == [sum(one) for one in numbers]
