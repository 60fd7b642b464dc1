"""FaultyBackend does what its plan says; and every backend keeps its promises when each call may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest

from durable.backend import Backend, BackendClosed, BackendUnavailable, CommitOutcome, Start
from durable.testing.conformance import BackendConformance
from durable.testing.conformance.builders import (
    SECOND,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    new_record,
    record_of,
    runnable_ids,
)
from durable.testing.faults import Fault, FaultyBackend, Plan, SimulatedCrash, Step, Work, random_plan, scripted_plan
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore


async def _open(store: MemoryStore, plan: Plan | None = None, **options: Any) -> FaultyBackend:
    backend = FaultyBackend(MemoryBackend(store), plan or scripted_plan({}), **options)
    await backend.open(16)
    return backend


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# --- each fault


@pytest.mark.parametrize(
    ("fault", "applied"),
    [(Fault.FAIL_BEFORE, False), (Fault.FAIL_AFTER, True), (Fault.CRASH_BEFORE, False), (Fault.CRASH_AFTER, True)],
)
async def test_a_fault_before_applies_nothing_and_one_after_applies_all(
    store: MemoryStore, fault: Fault, applied: bool
) -> None:
    backend, other = await _open(store, scripted_plan({"send": [Step(fault)]})), await _open(store)
    with pytest.raises(SimulatedCrash if fault.is_crash else BackendUnavailable):
        await backend.send([new_message("m", "a")])
    assert await inbox_of(other, "a") == (["m"] if applied else [])


async def test_a_failed_operation_may_be_repeated(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"commit": [Step(Fault.FAIL_AFTER), Step(Fault.FAIL_BEFORE)]}))
    instance = Instance("a")
    await create(backend, instance)
    commit = instance.turn()
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="commit"):
            await backend.commit([commit])
    assert list(await backend.commit([commit])) == [CommitOutcome.COMMITTED]


async def test_a_fault_later_applies_after_the_caller_was_told(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"send": [Step(Fault.FAIL_LATER, turns_back=3)]}))
    with pytest.raises(BackendUnavailable):
        await backend.send([new_message("m", "a")])
    assert await inbox_of(backend, "a") == []
    for _ in range(6):
        await asyncio.sleep(0)
    assert await inbox_of(backend, "a") == ["m"]


async def test_close_waits_for_what_is_applied_later(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"send": [Step(Fault.FAIL_LATER, turns_back=50)]}))
    with pytest.raises(BackendUnavailable):
        await backend.send([new_message("m", "a")])
    await backend.close()
    assert await inbox_of(await _open(store), "a") == ["m"]
    with pytest.raises(BackendClosed):
        await backend.get(["a"])


@pytest.mark.parametrize(("part", "kept"), [(0.0, []), (0.5, ["a", "b"]), (1.0, ["a", "b", "c", "d"])])
async def test_a_fault_partway_applies_a_part_of_the_batch(store: MemoryStore, part: float, kept: list[str]) -> None:
    script = scripted_plan({"create_instances": [Step(Fault.FAIL_PARTWAY, part=part)]})
    backend = await _open(store, script)
    with pytest.raises(BackendUnavailable):
        await backend.create_instances([new_record(one) for one in "abcd"])
    assert [record.instance_id for record in await backend.get("abcd") if record is not None] == kept


async def test_a_commit_that_creates_can_stop_between_record_and_checkpoint(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"commit": [Step(Fault.CRASH_PARTWAY, part=0.5)]}))
    commit = Instance("a").last_turn(create=True)
    with pytest.raises(SimulatedCrash):
        await backend.commit([commit])
    survivor = await _open(store)
    assert not await survivor.load("a", "e1")
    assert await runnable_ids(survivor) == ["a"]


async def test_settle_can_stop_between_any_two_of_its_steps(store: MemoryStore) -> None:
    seen = []
    for number, part in enumerate([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]):
        backend = await _open(store, scripted_plan({"settle": [Step(Fault.FAIL_PARTWAY, part=part)]}))
        instance, receiver, child = Instance(f"i{number}"), f"receiver{number}", new_record(f"child{number}")
        await create(backend, instance)
        await backend.send([new_message(f"q{number}", f"i{number}")])
        await apply(await _open(store), instance.turn())
        instance.continue_as("e1.1")
        message = new_message(f"m{number}", receiver)
        commit = instance.turn(starts=[Start(child)], messages=[message], drops=["e1"], consumed=[f"q{number}"])
        await backend.commit([commit])
        with pytest.raises(BackendUnavailable):
            await backend.settle([commit])
        [started, record] = await backend.get([child.instance_id, f"i{number}"])
        sent, waits = await inbox_of(backend, receiver), await inbox_of(backend, f"i{number}")
        former = await backend.load(f"i{number}", "e1")
        seen.append((started == child, len(sent), len(former), record and record.rev, len(waits)))
        await backend.settle([commit])
        assert await record_of(backend, f"i{number}") == instance.record
        assert not await inbox_of(backend, f"i{number}")
    assert seen == [
        (False, 0, 1, 1, 1),
        (True, 0, 1, 1, 1),
        (True, 1, 1, 1, 1),
        (True, 1, 0, 1, 1),
        (True, 1, 0, 2, 1),
        (True, 1, 0, 2, 0),
    ]


async def test_what_settle_sends_instead_of_a_start_goes_with_it(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"settle": [Step(Fault.FAIL_PARTWAY, part=0.5)]}))
    instance, stranger = Instance("a"), Instance("child", "c2")
    await create(backend, instance, stranger)
    commit = instance.turn(starts=[Start(new_record("child", "c1"), new_message("taken", "a"))])
    await backend.commit([commit])
    with pytest.raises(BackendUnavailable):
        await backend.settle([commit])
    assert await inbox_of(backend, "a") == ["taken"]
    assert list(await backend.get(["a", "child"])) == [new_record("a"), stranger.record]


# --- crashes


async def test_after_a_crash_nothing_comes_back_or_goes_out(store: MemoryStore) -> None:
    crashes: list[str] = []
    script = scripted_plan({"send": [Step(turns=3), Step(Fault.CRASH_BEFORE)], "get": [Step(turns_back=9)]})
    backend, other = await _open(store, script, on_crash=crashes.append), await _open(store)
    on_its_way = asyncio.create_task(backend.send([new_message("m1", "a")]))
    on_its_way_back = asyncio.create_task(backend.get(["a"]))
    await asyncio.sleep(0)
    with pytest.raises(SimulatedCrash):
        await backend.send([new_message("m2", "a")])
    outcomes: Sequence[object] = await asyncio.gather(on_its_way, on_its_way_back, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SimulatedCrash, SimulatedCrash]
    with pytest.raises(SimulatedCrash):
        await backend.send([new_message("m3", "a")])
    assert await inbox_of(other, "a") == []
    assert crashes == ["send"]
    await backend.close()


async def test_a_watch_ends_with_the_crash(store: MemoryStore) -> None:
    backend, other = await _open(store, scripted_plan({"send": [Step(Fault.CRASH_BEFORE)]})), await _open(store)
    watching = asyncio.ensure_future(anext(backend.watch()))
    await asyncio.sleep(0)
    with pytest.raises(SimulatedCrash):
        await backend.send([])
    await other.create_instances([new_record("a")])
    with pytest.raises(SimulatedCrash):
        await watching
    await backend.close()


async def test_a_hint_can_be_lost(store: MemoryStore) -> None:
    backend, other = await _open(store, scripted_plan({"watch": [Step(Fault.FAIL_BEFORE)]})), await _open(store)
    watching = asyncio.ensure_future(anext(backend.watch()))
    await asyncio.sleep(0)
    await other.create_instances([new_record("lost")])
    await other.create_instances([new_record("told")])
    assert (await watching).instance_id == "told"
    await backend.close()


# --- plans


async def test_delays_let_others_overtake(store: MemoryStore) -> None:
    backend = await _open(store, scripted_plan({"commit": [Step(turns=5), Step(turns=1)]}))
    instance = Instance("a")
    await create(backend, instance)
    commits = [instance.turn(token="slow")]
    commits.append(Instance("a").turn(token="fast"))
    outcomes = await asyncio.gather(*(backend.commit([commit]) for commit in commits))
    assert outcomes == [[CommitOutcome.CONFLICT], [CommitOutcome.COMMITTED]]


def test_a_random_plan_is_repeatable_and_keeps_its_probabilities() -> None:
    def draw(seed: int) -> list[Step]:
        plan = random_plan(seed, failures=0.3, crashes=0.1, max_turns=2, spare={"purge"})
        return [plan("purge" if number % 5 == 0 else "commit") for number in range(5000)]

    steps = draw(1)
    assert steps == draw(1) != draw(2)
    faults = [step.fault for number, step in enumerate(steps) if number % 5]
    assert 0.25 < sum(fault is not Fault.NONE and not fault.is_crash for fault in faults) / len(faults) < 0.35
    assert 0.07 < sum(fault.is_crash for fault in faults) / len(faults) < 0.13
    assert set(faults) == set(Fault)
    assert {step.fault for step in steps[::5]} == {Fault.NONE}
    assert {step.turns for step in steps} == {step.turns_back for step in steps} == {0, 1, 2}


# --- the whole port under faults


class _Persistent(FaultyBackend):
    """Repeats each operation until it gets through, as the engine does."""

    async def _run(self, operation: str, whole: Work[Any], parts: Sequence[Work[Any]] = ()) -> Any:
        while True:
            try:
                return await super()._run(operation, whole, parts)
            except BackendUnavailable:
                continue


class TestConformanceUnderFaults(BackendConformance):
    """Repeating must not show, except in the counts that purge and sweep return."""

    @pytest.fixture
    def backend_factory(self, backend_factory: Callable[[], Backend]) -> Callable[[], Backend]:
        seeds, faults = count(1), [Fault.FAIL_BEFORE, Fault.FAIL_PARTWAY, Fault.FAIL_AFTER]

        def make() -> Backend:
            random = random_plan(next(seeds), failures=0.5, spare={"purge", "sweep", "open", "watch"})

            def plan(operation: str) -> Step:
                step = random(operation)
                # What is applied later may come after the next operation of this caller, which the tests rule out.
                return step if step.fault in faults else Step(turns=step.turns, turns_back=step.turns_back)

            return _Persistent(backend_factory(), plan)

        return make


async def test_the_persistent_backend_meets_its_faults(store: MemoryStore) -> None:
    backend = _Persistent(MemoryBackend(store), scripted_plan({"commit": [Step(Fault.FAIL_AFTER)] * 3}))
    await backend.open(1)
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.turn())
    assert set(await backend.acquire_partitions("w", [0], T0, SECOND)) == {0}
