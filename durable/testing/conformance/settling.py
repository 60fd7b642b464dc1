"""Promises of ``settle``: what follows from a committed checkpoint, as often as it is repeated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from durable.backend import Annotation, Backend, CommitOutcome
from durable.core.events import ParentInstance
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    FAILURE,
    LATE,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    record_of,
    rival_of,
    runnable_ids,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


class SettleConformance(ConformanceFixtures):
    async def test_settle_sends_updates_and_consumes(self, backend: Backend, other: Backend) -> None:
        instance, receiver = Instance("a"), Instance("receiver")
        await create(backend, instance, receiver)
        await backend.send([new_message("q1", "a"), new_message("q2", "a")])
        answers = [new_message(f"answer-{number}", "receiver", sent_at=T0 + number) for number in range(3)]
        await apply(backend, instance.turn(messages=answers, consumed=["q1"]))
        assert await record_of(other, "a") == instance.record
        assert await inbox_of(other, "a") == ["q2"]
        assert list(await other.receive(["receiver"])) == answers

    async def test_settling_again_changes_nothing(self, backend: Backend, other: Backend) -> None:
        instance, receiver = Instance("a"), Instance("receiver")
        await create(backend, instance, receiver)
        await backend.send([new_message("question", "a")])
        commit = instance.turn(messages=[new_message("answer", "receiver")], consumed=["question"])
        await apply(backend, commit)
        await apply(backend, receiver.turn(consumed=["answer"]))
        for writer in (backend, other):
            await apply(writer, commit)
            assert not await inbox_of(backend, "a", "receiver")
            assert list(await backend.get(["a", "receiver"])) == [instance.record, receiver.record]

    async def test_a_record_never_goes_back(self, backend: Backend, other: Backend) -> None:
        instance, receiver = Instance("a"), Instance("receiver")
        await create(backend, instance, receiver)
        first = instance.turn(messages=[new_message("m1", "receiver")], custom_status='"1"')
        second = instance.turn(custom_status='"2"')
        await apply(backend, first)
        await apply(backend, second)
        await apply(other, first)
        assert await record_of(backend, "a") == second.record
        assert await inbox_of(backend, "receiver") == ["m1"]

    async def test_late_steps_of_an_old_checkpoint_are_still_done(self, backend: Backend) -> None:
        instance, receiver = Instance("a"), Instance("receiver")
        await create(backend, instance, receiver)
        await backend.send([new_message("question", "a")])
        first = instance.turn(messages=[new_message("answer", "receiver")], consumed=["question"])
        second = instance.turn()
        await backend.commit([first])
        await apply(backend, second)
        await backend.settle([first])
        assert await inbox_of(backend, "a", "receiver") == ["answer"]
        assert await record_of(backend, "a") == second.record

    async def test_several_checkpoints_of_one_instance_in_one_call(self, backend: Backend) -> None:
        instance, receiver = Instance("a"), Instance("receiver")
        await create(backend, instance, receiver)
        await backend.send([new_message(f"q{number}", "a") for number in range(4)])
        commits = [
            instance.turn(messages=[new_message(f"m{number}", "receiver")], consumed=[f"q{number}"])
            for number in range(3)
        ]
        for commit in commits:
            await backend.commit([commit])
        await backend.settle(commits)
        assert await record_of(backend, "a") == instance.record
        assert await inbox_of(backend, "a", "receiver") == ["m0", "m1", "m2", "q3"]

    async def test_many_instances_in_one_call(self, backend: Backend) -> None:
        instances = [Instance(f"i{number:02}") for number in range(50)]
        await create(backend, *instances)
        await backend.send([new_message(f"q-{one.instance_id}", one.instance_id) for one in instances])
        commits = []
        for one, following in zip(instances, instances[1:] + instances[:1], strict=True):
            message = new_message(f"from-{one.instance_id}", following.instance_id)
            commits.append(one.turn(messages=[message], consumed=[f"q-{one.instance_id}"], due_at=0))
        await apply(backend, *commits)
        ids = [one.instance_id for one in instances]
        assert list(await backend.get(ids)) == [one.record for one in instances]
        assert await inbox_of(backend, *ids) == sorted(f"from-{instance_id}" for instance_id in ids)

    async def test_every_field_of_a_record_follows_the_checkpoint(self, backend: Backend) -> None:
        instance = Instance("a", version="1", tags={"a": "b"}, parent=ParentInstance("p", "p1", 0, "p"))
        await create(backend, instance)
        half: dict[str, Any] = {"custom_status": '"half"', "recoveries": 3, "problem": "why", "heartbeats": {"7": "1"}}
        await apply(backend, instance.turn(due_at=0, **half))
        assert await record_of(backend, "a") == instance.record
        none: dict[str, Any] = {"custom_status": None, "recoveries": 0, "problem": None, "heartbeats": None}
        await apply(backend, instance.turn(due_at=LATE, **none))
        assert await record_of(backend, "a") == instance.record
        instance.continue_as("e1.1")
        await apply(backend, instance.turn(custom_status='"' + "x" * 1_000_000 + '"', input="[3]", heartbeats={}))
        assert await record_of(backend, "a") == instance.record
        await apply(backend, instance.turn(status=RuntimeStatus.FAILED, failure=FAILURE, completed_at=LATE + 1))
        assert await record_of(backend, "a") == instance.record

    async def test_fields_that_never_change_stay_as_they_were_created(self, backend: Backend) -> None:
        instance = Instance("a", version="1", tags={"a": "b"}, parent=ParentInstance("p", "p1", 0, "p"))
        start = instance.record
        await create(backend, instance)
        commit = instance.turn()
        altered = replace(
            commit.record, name="x", partition=99, created_at=1, version="9", tags={"other": "tag"}, parent=None
        )
        await apply(backend, replace(commit, record=altered))
        kept = replace(start, rev=1, status=RuntimeStatus.RUNNING, due_at=None, updated_at=commit.record.updated_at)
        assert await record_of(backend, "a") == kept

    async def test_a_checkpoint_clears_what_was_annotated(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await backend.annotate([Annotation("a", 0, "no such orchestrator", 4, {"1": "half"})])
        await apply(backend, instance.turn())
        assert await record_of(backend, "a") == instance.record

    async def test_settling_again_keeps_what_was_annotated_since(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        await apply(backend, commit)
        await other.annotate([Annotation("a", 1, "stuck", 2, {"1": "half"})])
        await apply(backend, commit)
        annotated = replace(commit.record, problem="stuck", recoveries=2, heartbeats={"1": "half"})
        assert await record_of(backend, "a") == annotated

    async def test_settling_never_brings_a_purged_instance_back(self, backend: Backend, other: Backend) -> None:
        instance, sender, receiver = Instance("a"), Instance("sender"), Instance("receiver")
        await create(backend, instance, sender, receiver)
        late = instance.turn(messages=[new_message("m1", "receiver")])
        await backend.commit([late])
        await apply(other, instance.last_turn())
        assert await other.purge(["a"]) == 1
        sent = sender.turn(messages=[new_message("m2", "receiver")])
        await backend.commit([sent])
        await backend.settle([late, sent])
        assert list(await backend.get(["a", "sender"])) == [None, sender.record]
        assert await inbox_of(backend, "receiver") == ["m1", "m2"]

    async def test_a_stale_commit_never_brings_a_purged_instance_back(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        stale = instance.turn(token="stale")
        await apply(other, rival_of(stale))
        assert await other.purge(["a"]) == 1
        if list(await backend.commit([stale])) == [CommitOutcome.COMMITTED]:  # a store need not look at the record
            await backend.settle([stale])
        assert list(await backend.get(["a"])) == [None]
        assert await runnable_ids(backend) == []

    async def test_a_commit_of_a_former_start_leaves_the_new_one_alone(self, backend: Backend, other: Backend) -> None:
        former, new = Instance("a", "e1"), Instance("a", "e2")
        await create(backend, former)
        await apply(backend, former.turn(), former.turn())
        stale = former.turn(token="stale", custom_status='"stale"')
        await apply(other, rival_of(stale))
        await apply(other, former.last_turn())
        assert await other.purge(["a"]) == 1
        await create(other, new)
        if list(await backend.commit([stale])) == [CommitOutcome.COMMITTED]:  # a store need not look at the record
            await backend.settle([stale])
        assert await record_of(backend, "a") == new.record
        await apply(backend, new.turn())
        assert await record_of(backend, "a") == new.record

    async def test_concurrent_settling_of_the_same_comes_to_the_same(self, backend: Backend, other: Backend) -> None:
        instances, receiver = [Instance(f"i{number}") for number in range(10)], Instance("receiver")
        await create(backend, receiver, *instances)
        first = [one.turn(messages=[new_message(f"1-{one.instance_id}", "receiver")]) for one in instances]
        second = [one.turn(messages=[new_message(f"2-{one.instance_id}", "receiver")]) for one in instances]
        await backend.commit(first)
        await backend.commit(second)
        await asyncio.gather(other.settle(first), backend.settle(first + second), other.settle(second))
        ids = [one.instance_id for one in instances]
        assert list(await backend.get(ids)) == [one.record for one in instances]
        expected = sorted(f"{turn}-{instance_id}" for turn in (1, 2) for instance_id in ids)
        assert await inbox_of(backend, "receiver") == expected
