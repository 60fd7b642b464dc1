"""Promises of ``load``: history comes back whole, in order, exactly as it was committed."""

from __future__ import annotations

from dataclasses import replace

from durable.backend import Backend, CommitOutcome
from durable.testing.conformance.builders import (
    Instance,
    apply,
    big_events,
    create,
    every_event,
    record_of,
    rival_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


class HistoryConformance(ConformanceFixtures):
    async def test_history_comes_in_pages_in_order(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commits = [instance.turn(token=f"t{number}") for number in range(25)]
        for commit in commits:
            await apply(backend, commit)
        checkpoints = [commit.checkpoint for commit in commits]
        for reader in (backend, other):
            assert list(await reader.load("a", "e1")) == checkpoints
            assert list(await reader.load("a", "e1", limit=10)) == checkpoints[:10]
            assert list(await reader.load("a", "e1", from_seq=10, limit=10)) == checkpoints[10:20]
            assert list(await reader.load("a", "e1", from_seq=20, limit=10)) == checkpoints[20:]
            assert list(await reader.load("a", "e1", from_seq=25, limit=10)) == []

    async def test_no_page_is_longer_than_a_hundred_unless_asked(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commits = [instance.turn() for _ in range(101)]
        for commit in commits:
            await backend.commit([commit])
        assert [checkpoint.seq for checkpoint in await backend.load("a", "e1")] == list(range(100))
        assert [checkpoint.seq for checkpoint in await backend.load("a", "e1", limit=500)] == list(range(101))

    async def test_histories_of_others_are_not_mixed_in(self, backend: Backend) -> None:
        ids = ("a", "a1", "b", "A", "a ", "aa")
        instances = [Instance(instance_id) for instance_id in ids]
        await create(backend, *instances)
        commits = [instance.turn(token=instance.instance_id) for instance in instances]
        await apply(backend, *commits)
        assert [checkpoint.token for checkpoint in await backend.load("a", "e1")] == ["a"]
        assert not await backend.load("a", "e")
        assert not await backend.load("a", "e11")
        assert not await backend.load("nobody", "e1")

    # --- drops: histories of former executions

    async def test_a_dropped_execution_is_gone_and_no_other_is(self, backend: Backend, other: Backend) -> None:
        instance, bystander = Instance("a"), Instance("b")
        await create(backend, instance, bystander)
        kept = [bystander.turn()]
        await apply(backend, kept[0])
        for execution_id in ("e1", "e1.1", "e1.10", "e1.100"):
            instance.continue_as(execution_id)
            commits = [instance.turn(), instance.turn()]
            for commit in commits:
                await apply(backend, commit)
            kept += commits if execution_id != "e1" else []
        last = instance.turn(drops=["e1", "nothing"])
        for _ in range(2):  # repeated after a doubt
            await apply(backend, last)
            assert not await other.load("a", "e1")
            assert await record_of(other, "a") == last.record
        for commit in [*kept, last]:
            checkpoint = commit.checkpoint
            loaded = await other.load(checkpoint.instance_id, checkpoint.execution_id, from_seq=checkpoint.seq)
            assert loaded[0] == checkpoint

    async def test_a_large_execution_is_dropped(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await apply(backend, instance.turn(events=big_events(500_000, 40)))
        instance.continue_as("e1.1")
        last = instance.turn(events=big_events(500_000, 40), drops=["e1"])
        await apply(backend, last)
        assert not await backend.load("a", "e1")
        assert list(await backend.load("a", "e1.1")) == [last.checkpoint]

    async def test_a_commit_that_loses_drops_nothing(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        first = instance.turn()
        await apply(backend, first)
        instance.continue_as("e1.1")
        second = instance.turn()
        await apply(backend, second)
        assert list(await other.commit([replace(rival_of(second), drops=("e1",))])) == [CommitOutcome.CONFLICT]
        assert list(await backend.load("a", "e1")) == [first.checkpoint]

    async def test_a_stale_commit_to_a_dropped_execution_moves_no_record(
        self, backend: Backend, other: Backend
    ) -> None:
        instance = Instance("a")
        await create(backend, instance)
        stale = rival_of(instance.turn())
        instance.continue_as("e1.1")
        await apply(backend, instance.turn(drops=["e1"]))
        if list(await other.commit([stale])) == [CommitOutcome.COMMITTED]:  # a store need not look at the record
            await other.settle([stale])
        assert await record_of(backend, "a") == instance.record

    # --- events

    async def test_checkpoints_keep_their_recoveries(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn(recoveries=3)
        commit = replace(commit, checkpoint=replace(commit.checkpoint, recoveries=3))
        await apply(backend, commit)
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]

    async def test_every_kind_of_event_reads_back_as_it_was(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        events = list(every_event())
        await apply(backend, instance.turn(events=events))
        [checkpoint] = await backend.load("a", "e1")
        for stored, event in zip(checkpoint.events, events, strict=True):
            assert stored == event
            assert type(stored) is type(event)

    async def test_a_checkpoint_without_events(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn(events=[])
        await apply(backend, commit)
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]

    async def test_a_checkpoint_of_many_events(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn(events=big_events(10, 20_000))
        await apply(backend, commit)
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]

    async def test_a_checkpoint_of_twenty_megabytes(self, backend: Backend, other: Backend) -> None:
        instance, small = Instance("large"), Instance("small")
        await create(backend, instance, small)
        commits = [instance.turn(events=big_events(500_000, 40)), small.turn()]
        await apply(backend, *commits)
        assert list(await other.load("large", "e1")) == [commits[0].checkpoint]
        assert list(await other.load("small", "e1")) == [commits[1].checkpoint]
        await apply(backend, *commits)  # the same again, after a doubt
        following = instance.turn()
        await apply(backend, following)
        assert list(await other.load("large", "e1")) == [commits[0].checkpoint, following.checkpoint]
        assert list(await other.load("large", "e1", from_seq=1)) == [following.checkpoint]

    async def test_a_page_of_large_checkpoints(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commits = [instance.turn(events=big_events(500_000, 10)) for _ in range(4)]
        for commit in commits:
            await backend.commit([commit])
        assert list(await backend.load("a", "e1")) == [commit.checkpoint for commit in commits]
