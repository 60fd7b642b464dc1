"""Rewinding failed instances, on every store: what succeeded is kept, what failed runs again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    Activity,
    ActivityFailedError,
    EntityId,
    InstanceNotFailedError,
    OrchestrationContext,
    OrchestrationFailedError,
    RetryPolicy,
    RuntimeStatus,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.waiting import until

DEADLINE = 30


class Broken:
    """What fails until it is mended, and how often each call was run."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.mended = False

    def run(self, name: str, fails: bool = False) -> str:
        self.runs[name] += 1
        if fails and not self.mended:
            raise ConnectionError(name)
        return name


def broken_hub(hub_url: str) -> tuple[TaskHub, Activity[..., str], Broken]:
    hub, broken = TaskHub(hub_url), Broken()

    @hub.activity
    async def step(name: str, fails: bool = False) -> str:
        return broken.run(name, fails)

    return hub, step, broken


async def fail_and_rewind(hub: TaskHub, broken: Broken, orchestrator: Any, *args: Any) -> Any:
    """The result after one failure, a restart, and a rewind; and the same again from a cold start."""
    async with hub:
        async with hub.worker():
            handle = await hub.start(orchestrator, *args)
            with pytest.raises(OrchestrationFailedError):
                await handle.result(DEADLINE)
        broken.mended = True
        async with hub.worker():
            await handle.rewind("mended")
            await until(handle.status, lambda s: s.runtime_status is not RuntimeStatus.FAILED)
            return await handle.result(DEADLINE)


async def test_a_sequence_goes_on_at_its_failed_step(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def sequence(ctx: OrchestrationContext) -> list[str]:
        return [await step("a"), await step("b", fails=True), await step("c")]

    assert await fail_and_rewind(hub, broken, sequence) == ["a", "b", "c"]
    assert broken.runs == {"a": 1, "b": 2, "c": 1}


async def test_parallel_branches_keep_what_succeeded(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def parallel(ctx: OrchestrationContext) -> list[Any]:
        async def branch(name: str) -> str:
            await step(f"{name}1")
            return await step(f"{name}2")

        first = await step("first")
        caught = await asyncio.gather(
            step("bad", fails=True), branch("x"), branch("y"), step("worse", fails=True), return_exceptions=True
        )
        for one in caught:
            if isinstance(one, BaseException):
                raise one
        return [first, *caught, await step("last")]

    expected = ["first", "bad", "x2", "y2", "worse", "last"]
    assert await fail_and_rewind(hub, broken, parallel) == expected
    kept = ("first", "x1", "x2", "y1", "y2", "last")
    assert {name: broken.runs[name] for name in kept} == dict.fromkeys(kept, 1)
    assert (broken.runs["bad"], broken.runs["worse"]) == (2, 2)


async def test_with_retries(hub_url: str) -> None:
    """An attempt that failed before another succeeded is answered by that success."""
    hub, step, broken = broken_hub(hub_url)
    flaky = Counter[str]()
    policy = RetryPolicy(max_attempts=3, first_interval=timedelta(milliseconds=5))

    @hub.activity
    async def flake(name: str) -> str:
        flaky[name] += 1
        if flaky[name] == 1:
            raise ConnectionError("the first time")
        return name

    @hub.orchestrator
    async def retrying(ctx: OrchestrationContext) -> list[str]:
        one = await flake.options(retry=policy)("one")
        return [one, await step.options(retry=policy)("two", fails=True)]

    assert await fail_and_rewind(hub, broken, retrying) == ["one", "two"]
    assert flaky == {"one": 2}
    assert broken.runs == {"two": 4}


async def test_failed_children_are_rewound_themselves(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def child(ctx: OrchestrationContext, name: str, fails: bool) -> str:
        await step(f"{name} before")
        return await step(name, fails=fails)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> list[str]:
        good = await child.options(instance_id="good")("good", False)
        return [good, await child.options(instance_id="bad")("bad", True)]

    assert await fail_and_rewind(hub, broken, parent) == ["good", "bad"]
    assert broken.runs == {"good before": 1, "good": 1, "bad before": 1, "bad": 2}


async def test_an_error_of_the_orchestrator_itself(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def divides(ctx: OrchestrationContext, n: int) -> str:
        await step("before")
        if n == 0 and not broken.mended:
            raise ZeroDivisionError
        return await step("after")

    assert await fail_and_rewind(hub, broken, divides, 0) == "after"
    assert broken.runs == {"before": 1, "after": 1}


async def test_a_failure_in_the_first_turn(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def at_once(ctx: OrchestrationContext) -> str:
        if not broken.mended:
            raise ValueError("at once")
        return await step("then")

    assert await fail_and_rewind(hub, broken, at_once) == "then"


async def test_events_entities_and_timers(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.entity
    class Sum:
        value: int = 0

        def add(self, n: int) -> int:
            self.value += n
            return self.value

    @hub.orchestrator
    async def mixed(ctx: OrchestrationContext) -> list[Any]:
        heard = await ctx.wait_for_external_event("n")
        async with ctx.lock(EntityId("sum", "s")):
            total = await ctx.call_entity(Sum.add, "s", heard)
            failed: list[str] = []
            try:
                await step("bad", fails=True)
            except ActivityFailedError:
                failed.append("caught")
        await asyncio.sleep(0.02)
        return [heard, total, failed, await step("worse", fails=True)]

    async with hub:
        async with hub.worker():
            handle = await hub.start(mixed)
            await handle.raise_event("n", 5)
            with pytest.raises(OrchestrationFailedError):
                await handle.result(DEADLINE)
        broken.mended = True
        async with hub.worker():
            await handle.rewind()
            await until(handle.status, lambda s: s.runtime_status is not RuntimeStatus.FAILED)
            assert await handle.result(DEADLINE) == [5, 5, [], "worse"]
            assert await hub.call_entity(Sum.add, "s", 0) == 5  # the lock is free, and it was added once


async def test_it_survives_restarts_and_can_be_done_again(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def stepwise(ctx: OrchestrationContext) -> list[Any]:
        first = await asyncio.gather(step("a"), step("b", fails=True), return_exceptions=True)
        later = [await step("c"), await ctx.wait_for_external_event("go"), await step("d")]
        for one in first:
            if isinstance(one, BaseException):
                raise one
        return [*first, *later]

    async with hub:
        async with hub.worker():
            handle = await hub.start(stepwise)
            await handle.raise_event("go", 1)
            with pytest.raises(OrchestrationFailedError):
                await handle.result(DEADLINE)
            await handle.rewind()
            await until(handle.history, lambda h: any(isinstance(e, ev.ExecutionRewound) for e in h))
            await until(handle.status, lambda s: s.runtime_status is RuntimeStatus.FAILED)
        broken.mended = True
        async with hub.worker():
            await handle.rewind()
            await until(handle.status, lambda s: s.runtime_status is not RuntimeStatus.FAILED)
            assert await handle.result(DEADLINE) == ["a", "b", "c", 1, "d"]
    assert broken.runs == {"a": 1, "b": 3, "c": 1, "d": 1}


async def test_only_failed_ones(hub_url: str) -> None:
    hub, step, _ = broken_hub(hub_url)

    @hub.orchestrator
    async def fine(ctx: OrchestrationContext) -> str:
        return await step("fine")

    async with hub.worker():
        handle = await hub.start(fine)
        await handle.result(DEADLINE)
        with pytest.raises(InstanceNotFailedError, match="Completed"):
            await handle.rewind()


async def test_a_stranger_that_holds_a_childs_id_is_left_alone(hub_url: str) -> None:
    hub, step, broken = broken_hub(hub_url)

    @hub.orchestrator
    async def stranger(ctx: OrchestrationContext) -> str:
        return await step("stranger", fails=True)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        return await stranger.options(instance_id="taken")()

    async with hub.worker():
        for orchestrator, instance_id in ((stranger, "taken"), (parent, "parent")):
            handle = await hub.start(orchestrator, instance_id=instance_id)
            with pytest.raises(OrchestrationFailedError):
                await handle.result(DEADLINE)
        broken.mended = True
        await hub.get("parent").rewind()
        with pytest.raises(OrchestrationFailedError, match="exists already"):
            await hub.get("parent").result(DEADLINE)
        assert (await hub.get("taken").status()).runtime_status is RuntimeStatus.FAILED
    assert broken.runs == {"stranger": 1}
