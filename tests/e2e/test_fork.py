"""Forking instances, on every store: what had happened is shared, what was outstanding is asked for again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    EntityId,
    ForkOrigin,
    InstanceExistsError,
    InstanceHandle,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    RuntimeStatus,
    TaskHub,
)
from durable.backend import Backend
from durable.core import events as ev
from durable.testing.faults import Fault, FaultyBackend, SimulatedCrash, Step, scripted_plan
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from tests.e2e.histories import rows_of
from tests.e2e.waiting import until

DEADLINE = 30


class Steps:
    """A hub with an activity that counts its runs by name, and fails or waits as it is told."""

    def __init__(self, store: str | Backend) -> None:
        self.hub = TaskHub(store)
        self.runs: Counter[str] = Counter()
        self.attempts: list[tuple[str, int]] = []
        self.failing: set[str] = set()
        self.gates: dict[str, asyncio.Event] = {}

        @self.hub.activity
        async def step(name: str) -> str:
            self.runs[name] += 1
            context = ActivityContext.current()
            self.attempts.append((context.instance_id, context.attempt))
            if name in self.gates:
                await self.gates[name].wait()
            if name in self.failing:
                raise ConnectionError(name)
            return name

        self.step = step


async def number_of(handle: InstanceHandle[Any], kind: type[Any], nth: int = 0) -> int:
    """The number of the nth event of a kind in the history of an instance."""
    return [number for number, event in enumerate(await handle.history()) if isinstance(event, kind)][nth]


async def test_it_goes_on_after_the_event_and_runs_nothing_again(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step

    @hub.orchestrator
    async def sequence(ctx: OrchestrationContext) -> list[str]:
        return [await step(name) for name in "abcd"]

    async with hub:
        async with hub.worker():
            origin = await hub.start(sequence, tags={"team": "a"})
            assert await origin.result(DEADLINE) == ["a", "b", "c", "d"]
            number = await number_of(origin, ev.TaskCompleted, 1)
            fork = await origin.fork(from_event=number)
        async with hub.worker():
            assert await fork.result(DEADLINE) == ["a", "b", "c", "d"]
        status = await fork.status()
        execution_id = (await origin.status()).execution_id
        assert status.forked_from == ForkOrigin(origin.instance_id, execution_id, number)
        assert (status.tags, status.name) == ({"team": "a"}, "sequence")
        assert (await origin.status()).forked_from is None
        assert fork.instance_id != origin.instance_id
    assert steps.runs == {"a": 1, "b": 1, "c": 2, "d": 2}


def parallel_steps(hub_url: str) -> tuple[Steps, Any, Any]:
    """An orchestrator that waits for one of each at once, all held up by gates; and the entity that it calls."""
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step
    steps.gates = {"slow": asyncio.Event(), "in child": asyncio.Event()}

    @hub.entity
    class Sum:
        value: int = 0

        async def add(self, n: int) -> int:
            if n:
                await steps.gates["slow"].wait()
            self.value += n
            return self.value

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return await step("in child")

    @hub.orchestrator
    async def parallel(ctx: OrchestrationContext) -> list[Any]:
        first = await step("first")
        rest = await asyncio.gather(
            step("slow"),
            child.options(instance_id="child")(),
            ctx.call_entity(Sum.add, "s", 1),
            asyncio.sleep(0.05, "slept"),
            ctx.wait_for_external_event("go"),
        )
        return [first, *rest]

    return steps, parallel, Sum


async def test_what_was_outstanding_is_asked_for_again(hub_url: str) -> None:
    """Activities, children, calls of entities and timers, of an instance that still runs; a worker later."""
    steps, parallel, sums = parallel_steps(hub_url)
    hub = steps.hub
    async with hub:
        async with hub.worker(drain_time=0.05):
            origin = await hub.start(parallel)
            await until(lambda: steps.runs["in child"], lambda runs: runs == 1)
            await origin.raise_event("go", "heard")
            await until(origin.history, lambda events: bool(rows_of(events, ev.TimerFired)))
            await until(origin.history, lambda events: bool(rows_of(events, ev.EventRaised)))
            fork = await origin.fork()
            assert (await fork.status()).runtime_status is RuntimeStatus.RUNNING
            await until(lambda: steps.attempts, lambda seen: (fork.instance_id, 1) in seen)
        for gate in steps.gates.values():
            gate.set()
        async with hub.worker():
            results = await asyncio.gather(origin.result(DEADLINE), fork.result(DEADLINE))
            total = await hub.call_entity(sums.add, "s", 0)
            children = {one.instance_id: one async for one in hub.query(name="child")}
    assert [[*result[:3], *result[4:]] for result in results] == [["first", "slow", "in child", "slept", "heard"]] * 2
    assert sorted(result[3] for result in results) == [1, 2]
    assert total == 2
    assert steps.runs["first"] == 1
    assert {one.parent_instance_id for one in children.values()} == {origin.instance_id, fork.instance_id}


@pytest.mark.parametrize("kind", [ev.TaskFailed, ev.SubOrchestrationInstanceFailed, ev.EntityOperationFailed])
async def test_failures_are_shared_too(hub_url: str, kind: type[Any]) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step
    steps.failing = {"bad", "child", "sum"}

    @hub.entity
    class Sum:
        async def add(self) -> str:
            steps.runs["sum"] += 1
            raise ValueError("sum")

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return await step("child")

    @hub.orchestrator
    async def careful(ctx: OrchestrationContext) -> list[str]:
        caught = []
        await step("first")
        for call in (lambda: step("bad"), child, lambda: ctx.call_entity(Sum.add, "s")):
            try:
                await call()
            except Exception as error:
                caught.append(type(error).__name__)
        return [*caught, await step("last")]

    expected = ["ActivityFailedError", "SubOrchestrationFailedError", "EntityOperationFailedError", "last"]
    async with hub.worker():
        origin = await hub.start(careful)
        assert await origin.result(DEADLINE) == expected
        before = Counter(steps.runs)
        fork = await origin.fork(from_event=await number_of(origin, kind))
        assert await fork.result(DEADLINE) == expected
    again = {ev.TaskFailed: {"child", "sum", "last"}, ev.SubOrchestrationInstanceFailed: {"sum", "last"}}
    assert set(Counter(steps.runs) - before) == again.get(kind, {"last"})


async def test_what_the_code_was_told_is_the_same_in_the_copied_part(hub_url: str) -> None:
    """Its id, uuids and random numbers; from the fork on they are its own. Children's ids do not collide."""
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return ctx.instance_id

    @hub.orchestrator
    async def identities(ctx: OrchestrationContext, rounds: int) -> list[list[str]]:
        seen = []
        for _ in range(rounds):
            mine = [ctx.instance_id, str(ctx.version), str(ctx.new_uuid()), str(ctx.random.random()), await child()]
            if ctx.random.random() < 0.5:  # another path for another number
                await step("low")
            await step(mine[2])
            seen.append(mine)
        return seen

    async with hub:
        async with hub.worker():
            origin = await hub.start(identities, 6, version="1")
            told = await origin.result(DEADLINE)
            third = [n for n, one in enumerate(await origin.history()) if isinstance(one, ev.TaskCompleted)]
            second = await origin.fork(from_event=third[-3], version="2")
            copied = await second.result(DEADLINE)
            last = await second.fork(version="3")
            copied_twice = await last.result(DEADLINE)
        async with hub.worker(cache_instances=1):
            await last.restart()
    shared = [one == other for one, other in zip(told, copied, strict=True)]
    assert shared == sorted(shared, reverse=True)
    assert 1 <= sum(shared) < 6
    assert (copied[-1][0], copied[-1][1]) == (second.instance_id, "2")
    assert not {one[2] for one in told[sum(shared) :]} & {one[2] for one in copied}
    assert not {one[4] for one in told[sum(shared) :]} & {one[4] for one in copied}
    assert copied_twice[:-1] == copied[:-1]
    assert steps.runs[told[0][2]] == 1


async def test_a_patched_version_takes_another_way_from_there(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step
    steps.failing = {"old"}

    @hub.orchestrator
    async def patched(ctx: OrchestrationContext) -> list[str]:
        first = await step("first")
        return [first, await step("new" if ctx.version == "2" else "old"), str(ctx.version)]

    async with hub.worker():
        origin = await hub.start(patched, version="1")
        with pytest.raises(OrchestrationFailedError):
            await origin.result(DEADLINE)
        fork = await origin.fork(from_event=await number_of(origin, ev.TaskCompleted), version="2")
        assert await fork.result(DEADLINE) == ["first", "new", "2"]
        assert (await fork.status()).version == "2"
        with pytest.raises(OrchestrationFailedError):
            await (await origin.fork()).result(DEADLINE)
    assert steps.runs == {"first": 1, "old": 1, "new": 1}


async def test_after_continue_as_new_and_a_fork_that_continues_as_new(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step

    @hub.orchestrator
    async def rounds(ctx: OrchestrationContext, number: int) -> list[str]:
        first = await step(f"{number}a")
        heard = await ctx.wait_for_external_event("go", str)
        if number < 3:
            ctx.continue_as_new(number + 1)
        return [ctx.instance_id, first, heard]

    async with hub:
        async with hub.worker():
            origin = await hub.start(rounds, 1)
            await origin.raise_event("go", "1")
            await until(lambda: steps.runs["2a"], lambda runs: runs == 1)
            await until(origin.history, lambda events: bool(rows_of(events, ev.TaskCompleted)))
            fork = await origin.fork(instance_id="fork")
        async with hub.worker():
            for handle in (fork, origin):
                await handle.raise_event("go", "2")
                await handle.raise_event("go", "3")
                assert await handle.result(DEADLINE) == [handle.instance_id, "3a", "3"]
            assert (await fork.status()).execution_id.endswith(".1")
            assert (await fork.status()).forked_from is not None
            with pytest.raises(InstanceExistsError, match="fork"):
                await origin.fork(instance_id="fork", from_event=None)
    assert steps.runs == {"1a": 1, "2a": 1, "3a": 2}


async def test_a_fork_that_fails_is_rewound_within_its_own_part(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step
    steps.failing = {"odd", "bad"}

    @hub.orchestrator
    async def failing(ctx: OrchestrationContext) -> list[str]:
        first = await asyncio.gather(step("good"), step("odd"), return_exceptions=True)
        second = await step("second")
        return [type(first[1]).__name__, second, await step("bad"), ctx.instance_id]

    async with hub:
        async with hub.worker():
            origin = await hub.start(failing)
            with pytest.raises(OrchestrationFailedError):
                await origin.result(DEADLINE)
            fork = await origin.fork(from_event=await number_of(origin, ev.TaskCompleted, 1))
            with pytest.raises(OrchestrationFailedError):
                await fork.result(DEADLINE)
        steps.failing = set()
        async with hub.worker():
            await fork.rewind()
            await until(fork.status, lambda s: s.runtime_status is not RuntimeStatus.FAILED)
            assert await fork.result(DEADLINE) == [ActivityFailedError.__name__, "second", "bad", fork.instance_id]
    assert steps.runs == {"good": 1, "odd": 1, "second": 1, "bad": 3}


async def test_of_a_rewound_instance_what_counts_is_shared(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step
    steps.failing = {"c"}

    @hub.orchestrator
    async def sequence(ctx: OrchestrationContext) -> list[str]:
        return [await step(name) for name in "abcd"]

    async with hub:
        async with hub.worker():
            origin = await hub.start(sequence)
            with pytest.raises(OrchestrationFailedError):
                await origin.result(DEADLINE)
            steps.failing = set()
            await origin.rewind()
            await until(origin.status, lambda s: s.runtime_status is not RuntimeStatus.FAILED)
            assert await origin.result(DEADLINE) == ["a", "b", "c", "d"]
            failed = await number_of(origin, ev.TaskFailed)
            with pytest.raises(ValueError, match=f"event {failed} "):
                await origin.fork(from_event=failed)  # it was taken back
            forks = [await origin.fork(from_event=await number_of(origin, ev.TaskCompleted, nth)) for nth in (1, 2)]
        async with hub.worker():
            for fork in (*forks, await forks[1].fork()):
                assert await fork.result(DEADLINE) == ["a", "b", "c", "d"]
    assert (steps.runs["a"], steps.runs["b"]) == (1, 1)
    assert (steps.runs["c"], steps.runs["d"]) == (3, 4)


async def test_points_that_do_not_count(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step

    @hub.entity
    class Sum:
        value: int = 0

        def add(self, n: int) -> int:
            self.value += n
            return self.value

    @hub.orchestrator
    async def locked(ctx: OrchestrationContext) -> str:
        await step("before")
        async with ctx.lock(EntityId("sum", "s")):
            await ctx.call_entity(Sum.add, "s", 1)
        return await step("after")

    async with hub.worker():
        origin = await hub.start(locked)
        await origin.result(DEADLINE)
        before, after = [await number_of(origin, ev.TaskCompleted, nth) for nth in (0, 1)]
        inside = await number_of(origin, ev.EntityOperationCompleted)
        for number, nearest in (
            (inside, f"{before} and {after}"),
            (0, str(before)),
            (999, str(after)),
            (-1, str(before)),
        ):
            with pytest.raises(ValueError, match=rf"{origin.instance_id}.*event {number} .* fork from: {nearest}$"):
                await origin.fork(from_event=number)
        assert await (await origin.fork(from_event=before)).result(DEADLINE) == "after"
    assert steps.runs == {"before": 1, "after": 2}


async def test_what_cannot_be_forked(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.orchestrator
    async def waits(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("go")

    async with hub.worker():
        idle = await hub.start(waits)
        await idle.wait_for_start(DEADLINE)
        with pytest.raises(ValueError, match="restart it instead"):
            await idle.fork()
        with pytest.raises(ValueError, match="entity"):
            await hub.get("@sum@s").fork()
        with pytest.raises(InstanceNotFoundError):
            await hub.get("nobody").fork()


async def test_activities_completed_from_outside_are_run_again_and_a_pause_is_shared(hub_url: str) -> None:
    """A token names its execution. A fork of what is suspended is suspended, and resumed by itself."""
    hub, tokens = TaskHub(hub_url), list[str]()

    @hub.activity
    async def ask() -> str:
        tokens.append(ActivityContext.current().task_token)
        later: str = ActivityContext.current().complete_later()
        return later

    @hub.orchestrator
    async def asks(ctx: OrchestrationContext) -> list[str]:
        await asyncio.sleep(0)
        first = await ctx.wait_for_external_event("first", str)
        return list(await asyncio.gather(ask(), ctx.wait_for_external_event("go", str), asyncio.sleep(0, first)))

    async with hub:
        async with hub.worker():
            origin = await hub.start(asks)
            await origin.wait_for_start(DEADLINE)
            await origin.raise_event("first", "1")
            await until(origin.history, lambda events: bool(rows_of(events, ev.TaskDeferred)))
            await origin.suspend()
            await origin.raise_event("go", "2")
            await until(origin.history, lambda events: len(rows_of(events, ev.EventRaised)) == 2)
            fork = await origin.fork()
            await until(fork.status, lambda s: s.runtime_status is RuntimeStatus.SUSPENDED)
            await until(lambda: len(tokens), lambda count: count == 2)
        async with hub.worker():
            for token, answer, handle in zip(tokens, "ab", (origin, fork), strict=True):
                await handle.resume()
                await hub.complete_activity(token, answer)
                assert await handle.result(DEADLINE) == [answer, "2", "1"]
    assert len(tokens) == 2


async def test_large_values_are_the_forks_own(hub_url: str) -> None:
    steps = Steps(hub_url)
    hub, step = steps.hub, steps.step

    @hub.orchestrator
    async def large(ctx: OrchestrationContext, text: str) -> int:
        kept = await step(text)
        await step("x")
        return len(kept)

    async with hub.worker():
        origin = await hub.start(large, "y" * 300_000)
        assert await origin.result(DEADLINE) == 300_000
        fork = await origin.fork()
        assert await origin.purge() == 1
        assert await fork.result(DEADLINE) == 300_000
        assert (await fork.status()).input == ["y" * 300_000]


def signalling_steps(store: MemoryStore) -> tuple[Steps, Any, Any]:
    """An orchestrator that signals an entity before its first step, and then waits for several things at once."""
    steps = Steps(MemoryBackend(store))
    hub, step = steps.hub, steps.step
    steps.gates = {"slow": asyncio.Event()}

    @hub.entity
    class Sum:
        value: int = 0

        def add(self, n: int) -> int:
            self.value += n
            return self.value

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> str:
        return await step("child")

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> list[str]:
        ctx.signal_entity(Sum.add, "s", 1)
        first = await step("first")
        await step("second")
        return [first, *await asyncio.gather(step("slow"), child(), ctx.wait_for_external_event("go", str))]

    return steps, main, Sum


@pytest.mark.parametrize(
    ("operation", "fault", "there"),
    [
        ("commit", Fault.CRASH_BEFORE, False),
        ("commit", Fault.CRASH_AFTER, False),
        ("create_instances", Fault.CRASH_BEFORE, False),
        ("create_instances", Fault.CRASH_AFTER, True),
        ("settle", Fault.CRASH_BEFORE, True),
        ("settle", Fault.CRASH_AFTER, True),
    ],
)
async def test_a_client_that_dies_while_it_forks_leaves_all_or_nothing(
    operation: str, fault: Fault, there: bool
) -> None:
    """On a store that settles apart from the commit. Whoever finds the record finds the history, and does the rest."""
    store = MemoryStore()
    steps, main, sums = signalling_steps(store)
    hub = steps.hub
    async with hub:
        async with hub.worker(drain_time=0.05):
            origin = await hub.start(main)
            await origin.raise_event("go", "heard")
            await until(lambda: steps.runs["child"], lambda runs: runs == 1)
            await until(origin.history, lambda events: bool(rows_of(events, ev.EventRaised)))
        steps.gates["slow"].set()
        number = await number_of(origin, ev.TaskCompleted, 1)
        client = TaskHub(FaultyBackend(MemoryBackend(store), scripted_plan({operation: [Step(fault)]})))
        async with client:
            with pytest.raises(SimulatedCrash):
                await client.get(origin.instance_id).fork(from_event=number, instance_id="fork")
        async with hub.worker():
            assert await origin.result(DEADLINE) == ["first", "slow", "child", "heard"]
            if there:
                await hub.get("fork").raise_event("go", "too")
                assert (await hub.get("fork").result(DEADLINE))[:3] == ["first", "slow", "child"]
            else:
                with pytest.raises(InstanceNotFoundError):
                    await hub.get("fork").status()
            assert await hub.call_entity(sums.add, "s", 0) == 1
    assert (steps.runs["first"], steps.runs["second"]) == (1, 1)
