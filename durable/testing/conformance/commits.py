"""Promises of ``commit``: the one commit point of a turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from durable.backend import Backend, CommitOutcome, Start
from durable.core.events import ParentInstance
from durable.testing.conformance.builders import (
    Instance,
    apply,
    big_events,
    create,
    inbox_of,
    new_message,
    new_record,
    record_of,
    rival_of,
    runnable_ids,
)
from durable.testing.conformance.fixtures import ConformanceFixtures, Handles

COMMITTED, CONFLICT, EXISTS = CommitOutcome.COMMITTED, CommitOutcome.CONFLICT, CommitOutcome.EXISTS


class CommitConformance(ConformanceFixtures):
    async def test_a_commit_is_seen_by_everyone_at_once(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        for _ in range(3):
            commit = instance.turn()
            assert list(await backend.commit([commit])) == [COMMITTED]
            assert (await other.load("a", "e1"))[-1] == commit.checkpoint
            await backend.settle([commit])

    async def test_a_commit_repeated_with_its_own_token_is_committed(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        for writer in (backend, backend, other):  # the token tells the writer, not the connection
            assert list(await writer.commit([commit])) == [COMMITTED]
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]

    async def test_a_late_repetition_of_a_commit_is_committed(self, handles: Handles, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        first = instance.turn()
        await apply(backend, first)
        await apply(backend, instance.turn())
        await backend.close()
        again = await handles.open()
        assert list(await again.commit([first])) == [COMMITTED]
        assert await record_of(again, "a") == instance.record

    async def test_a_foreign_token_is_a_conflict_and_changes_nothing(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        await apply(backend, commit)
        assert list(await other.commit([rival_of(commit)])) == [CONFLICT]
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]
        assert await record_of(backend, "a") == commit.record

    async def test_a_commit_that_loses_has_no_effects(self, backend: Backend, other: Backend) -> None:
        receiver, instance = Instance("receiver"), Instance("a")
        await create(backend, receiver, instance)
        await backend.send([new_message("question", "a")])
        commit = instance.turn()
        await apply(backend, commit)
        loser = replace(rival_of(commit), messages=(new_message("answer", "receiver"),), consumed=("question",))
        assert list(await other.commit([loser])) == [CONFLICT]
        assert await inbox_of(backend, "receiver", "a") == ["question"]

    async def test_a_conflict_does_not_hinder_the_others_of_its_batch(self, backend: Backend) -> None:
        instances = [Instance(f"i{number}") for number in range(7)]
        await create(backend, *instances[:6])
        turns = [instance.turn() for instance in instances[:6]]
        await apply(backend, turns[1], turns[3])
        batch = [turns[0], rival_of(turns[1]), turns[2], turns[3], rival_of(turns[4]), turns[5]]
        batch += [instances[6].turn(create=True)]
        outcomes = await backend.commit(batch)
        assert list(outcomes) == [COMMITTED, CONFLICT, COMMITTED, COMMITTED, COMMITTED, COMMITTED, COMMITTED]
        strangers = [Instance(taken, "another").turn(create=True) for taken in ("i0", "i6")]
        assert list(await backend.commit([strangers[0], turns[2], strangers[1]])) == [EXISTS, COMMITTED, EXISTS]
        winners = [turns[0], turns[1], turns[2], turns[3], batch[4], turns[5], batch[6]]
        for instance, winner in zip(instances, winners, strict=True):
            assert list(await backend.load(instance.instance_id, "e1")) == [winner.checkpoint]

    async def test_of_two_concurrent_writers_one_wins_each_checkpoint(self, backend: Backend, other: Backend) -> None:
        instances = [Instance(f"i{number}") for number in range(20)]
        await create(backend, *instances)
        ours = [instance.turn(token="ours") for instance in instances]
        theirs = [rival_of(commit, "theirs") for commit in ours]
        our_outcomes, their_outcomes = await asyncio.gather(backend.commit(ours), other.commit(theirs[::-1]))
        for our, their, *outcomes in zip(ours, theirs, our_outcomes, reversed(their_outcomes), strict=True):
            assert set(outcomes) == {COMMITTED, CONFLICT}
            winner = our if outcomes[0] is COMMITTED else their
            assert list(await backend.load(our.record.instance_id, "e1")) == [winner.checkpoint]

    async def test_many_concurrent_writers_of_one_checkpoint(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        rivals = [rival_of(commit, f"token-{number}") for number in range(16)]
        writers = [backend, other] * 8
        outcomes = await asyncio.gather(
            *(writer.commit([rival]) for writer, rival in zip(writers, rivals, strict=True))
        )
        won = [rival for rival, [outcome] in zip(rivals, outcomes, strict=True) if outcome is COMMITTED]
        assert len(won) == 1
        assert [outcome for [outcome] in outcomes].count(CONFLICT) == 15
        assert list(await backend.load("a", "e1")) == [won[0].checkpoint]

    async def test_each_execution_counts_its_own_checkpoints(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        first = instance.turn()
        instance.continue_as("e1.1")
        second = instance.turn(token="token-b")
        await apply(backend, first)
        await apply(backend, second)
        assert list(await backend.load("a", "e1")) == [first.checkpoint]
        assert list(await backend.load("a", "e1.1")) == [second.checkpoint]
        assert await record_of(backend, "a") == second.record

    async def test_readers_never_see_a_part_of_a_checkpoint(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn(events=big_events(100_000, 50))
        writing = asyncio.create_task(backend.commit([commit]))
        while not writing.done():
            assert list(await other.load("a", "e1")) in ([], [commit.checkpoint])
            await asyncio.sleep(0)
        assert list(await writing) == [COMMITTED]
        assert list(await other.load("a", "e1")) == [commit.checkpoint]

    # --- create: an instance that begins with its first checkpoint

    async def test_create_makes_the_instance_with_its_checkpoint(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a", version="7", tags={"k": "v"})
        commit = instance.turn(create=True)
        assert list(await backend.commit([commit])) == [COMMITTED]
        record = await record_of(other, "a")
        assert (record.execution_id, record.input, record.tags) == ("e1", "[1,2]", {"k": "v"})
        await backend.settle([commit])
        assert await record_of(other, "a") == commit.record
        assert list(await other.load("a", "e1")) == [commit.checkpoint]

    async def test_a_created_instance_is_found_until_it_is_settled(self, backend: Backend, other: Backend) -> None:
        going, ended = Instance("going").turn(create=True, due_at=0), Instance("ended").last_turn(create=True)
        await backend.commit([going, ended])
        settled = ["going"] if backend.settles_on_commit else ["ended", "going"]  # R1: messages may wait to be sent
        assert await runnable_ids(other) == settled
        await backend.settle([going, ended])
        assert await runnable_ids(other) == ["going"]

    async def test_create_keeps_the_parent(self, backend: Backend, other: Backend) -> None:
        parent = ParentInstance("p", "p1", 3, "root")
        commit = Instance("a", parent=parent).turn(create=True)
        await backend.commit([commit])
        assert (await record_of(other, "a")).parent == parent
        await backend.settle([commit])
        assert await record_of(other, "a") == commit.record

    async def test_create_repeated_after_it_continued_as_new_is_told_by_its_token(
        self, backend: Backend, other: Backend
    ) -> None:
        instance = Instance("a")
        first = instance.turn(create=True)
        await apply(backend, first)
        instance.continue_as("e1.1")
        await apply(backend, instance.turn(input="[3]"))
        assert list(await other.commit([first])) == [COMMITTED]
        assert list(await other.commit([rival_of(first)])) == [CONFLICT]
        stranger = Instance("a", "e2").turn(create=True, token="token-c")
        assert list(await other.commit([stranger])) == [EXISTS]
        assert await record_of(backend, "a") == instance.record

    async def test_create_goes_on_from_a_start_without_checkpoint(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(other, instance)
        commit = instance.turn(create=True)
        await apply(backend, commit)
        assert await record_of(backend, "a") == commit.record

    async def test_create_of_a_taken_id_writes_nothing(self, backend: Backend, other: Backend) -> None:
        first, receiver = Instance("a"), Instance("receiver")
        await create(other, first, receiver)
        await apply(other, first.turn())
        message = new_message("m", "receiver")
        second = Instance("a", "e2", input="[9]").turn(create=True, messages=[message], token="token-b")
        assert list(await backend.commit([second])) == [EXISTS]
        assert await record_of(backend, "a") == first.record
        assert not await backend.load("a", "e2")
        assert not await inbox_of(backend, "receiver")

    async def test_create_repeated_is_told_by_its_token(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        commit = instance.turn(create=True)
        assert list(await backend.commit([commit])) == [COMMITTED]
        assert list(await other.commit([commit])) == [COMMITTED]
        assert list(await other.commit([rival_of(commit)])) == [CONFLICT]
        await apply(backend, commit)
        assert list(await other.commit([commit])) == [COMMITTED]
        assert await record_of(backend, "a") == commit.record

    async def test_of_concurrent_creators_by_commit_one_wins_each_id(self, backend: Backend, other: Backend) -> None:
        ids = [f"i{number}" for number in range(20)]
        ours = [Instance(instance_id, "ours").turn(create=True) for instance_id in ids]
        theirs = [Instance(instance_id, "theirs").turn(create=True) for instance_id in ids]
        both = await asyncio.gather(backend.commit(ours), other.commit(theirs[::-1]))
        for our, their, *outcomes in zip(ours, theirs, both[0], reversed(both[1]), strict=True):
            assert set(outcomes) == {COMMITTED, EXISTS}
            winner, loser = (our, their) if outcomes[0] is COMMITTED else (their, our)
            instance_id = our.record.instance_id
            assert (await record_of(backend, instance_id)).execution_id == winner.record.execution_id
            assert list(await backend.load(instance_id, winner.record.execution_id)) == [winner.checkpoint]
            assert not await backend.load(instance_id, loser.record.execution_id)

    async def test_create_instances_and_create_by_commit_exclude_each_other(
        self, backend: Backend, other: Backend
    ) -> None:
        commit = Instance("a").turn(create=True)
        await apply(backend, commit)
        assert list(await other.create_instances([new_record("a", "e2")])) == [commit.record]

    # --- settling on commit

    async def test_a_backend_that_settles_on_commit_does_all_of_it(self, backend: Backend, other: Backend) -> None:
        if not backend.settles_on_commit:
            pytest.skip("this backend settles apart from the commit")
        instance, receiver, child = Instance("a"), Instance("receiver"), new_record("child", "c1")
        await create(backend, instance, receiver)
        await backend.send([new_message("question", "a")])
        await backend.commit([instance.turn()])
        instance.continue_as("e1.1")
        starts = [Start(child), Start(new_record("receiver", "c2"), new_message("taken", "a"))]
        answer = new_message("answer", "receiver")
        commit = instance.turn(starts=starts, messages=[answer], drops=["e1"], consumed=["question"])
        for _ in range(2):  # repeated after a doubt
            assert list(await backend.commit([commit])) == [COMMITTED]
            assert list(await other.get(["a", "child", "receiver"])) == [commit.record, child, receiver.record]
            assert await inbox_of(other, "a", "receiver") == ["answer", "taken"]
            assert not await other.load("a", "e1")
