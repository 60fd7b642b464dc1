"""Promises of ``Commit.starts``: instances that a turn starts, each once, and what is sent where the id is taken."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from durable.backend import Backend, CommitOutcome, Start
from durable.core.events import ParentInstance
from durable.testing.conformance.builders import (
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    new_record,
    record_of,
    rival_of,
    runnable_ids,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


def _start(child_id: str, parent_id: str = "parent", execution_id: str = "c1") -> Start:
    """A start of ``child_id`` that tells ``parent_id`` when the id is taken."""
    parent = ParentInstance(parent_id, "e1", 4, parent_id)
    taken = new_message(f"{parent_id}-{child_id}-taken", parent_id)
    return Start(new_record(child_id, execution_id, parent=parent), taken)


class StartConformance(ConformanceFixtures):
    async def test_what_a_turn_starts_is_created_pending(self, backend: Backend, other: Backend) -> None:
        parent, start, later = Instance("parent"), _start("child"), _start("later")
        later = replace(later, record=replace(later.record, due_at=T0 + 5, tags={"a": "b"}, version="2"))
        await create(backend, parent)
        await apply(backend, parent.turn(starts=[start, later]))
        assert list(await other.get(["child", "later"])) == [start.record, later.record]
        assert await runnable_ids(other, T0) == ["child"]
        assert await inbox_of(other, "parent") == []

    async def test_a_start_repeated_changes_nothing(self, backend: Backend, other: Backend) -> None:
        parent, child = Instance("parent"), Instance("child", "c1")
        await create(backend, parent)
        commit = parent.turn(starts=[Start(child.record, new_message("taken", "parent"))])
        await apply(backend, commit)
        await apply(backend, child.turn())
        await apply(other, commit)
        assert await record_of(backend, "child") == child.record
        child.continue_as("c1.1")
        await apply(backend, child.turn(input="[3]"))
        await apply(other, commit)
        assert await record_of(backend, "child") == child.record
        assert await inbox_of(backend, "parent") == []

    async def test_a_start_of_a_taken_id_leaves_the_stranger_and_sends_otherwise(
        self, backend: Backend, other: Backend
    ) -> None:
        parent, pending, ended = Instance("parent"), Instance("pending", "x1"), Instance("ended", "x2.1")
        await create(backend, parent, pending, ended)
        await apply(backend, ended.last_turn())
        starts = [_start("pending"), _start("ended")]
        await apply(backend, parent.turn(starts=starts))
        assert list(await other.get(["pending", "ended"])) == [pending.record, ended.record]
        told = {message.message_id: message for message in await other.receive(["parent"])}
        assert list(told.values()) == sorted(
            (start.otherwise for start in starts if start.otherwise is not None), key=lambda sent: sent.message_id
        )

    async def test_otherwise_is_sent_once(self, backend: Backend, other: Backend) -> None:
        parent = Instance("parent")
        await create(backend, parent, Instance("child", "x1"))
        commit = parent.turn(starts=[_start("child")])
        await apply(backend, commit)
        await apply(other, commit)
        assert await inbox_of(backend, "parent") == ["parent-child-taken"]
        await apply(backend, parent.turn(consumed=["parent-child-taken"]))
        await apply(other, commit)
        assert await inbox_of(backend, "parent") == []

    async def test_a_start_with_nothing_to_send_otherwise(self, backend: Backend) -> None:
        parent, stranger = Instance("parent"), Instance("child", "x1")
        await create(backend, parent, stranger)
        await apply(backend, parent.turn(starts=[Start(new_record("child", "c1"))]))
        assert list(await backend.get(["parent", "child"])) == [parent.record, stranger.record]
        assert await inbox_of(backend, "parent", "child") == []

    async def test_a_commit_that_loses_starts_nothing(self, backend: Backend, other: Backend) -> None:
        parent = Instance("parent")
        await create(backend, parent, Instance("taken", "x1"))
        commit = parent.turn()
        await apply(backend, commit)
        starts = (_start("child"), _start("taken"))
        assert list(await other.commit([replace(rival_of(commit), starts=starts)])) == [CommitOutcome.CONFLICT]
        stranger = Instance("parent", "e2").turn(create=True, token="token-c", starts=starts)
        assert list(await other.commit([stranger])) == [CommitOutcome.EXISTS]
        assert list(await backend.get(["child"])) == [None]
        assert await inbox_of(backend, "parent") == []

    async def test_each_start_of_a_batch_stands_alone(self, backend: Backend) -> None:
        parents = [Instance(f"parent-{number}") for number in range(6)]
        strangers = [Instance(f"child-{number}", "x1") for number in (1, 4)]
        await create(backend, *parents, *strangers)
        first = parents[0].turn(starts=[_start("child-0", "parent-0")])
        await apply(backend, first)
        turns = [
            parent.turn(starts=[_start(f"child-{number}", parent.instance_id), _start(f"extra-{number}")])
            for number, parent in enumerate(parents)
        ]
        await apply(backend, first)
        await apply(backend, *turns)
        records = await backend.get([f"{kind}-{number}" for number in range(6) for kind in ("child", "extra")])
        assert [None if record is None else record.execution_id for record in records] == [
            *("c1", "c1", "x1", "c1", "c1", "c1", "c1", "c1", "x1", "c1", "c1", "c1")
        ]
        told = await inbox_of(backend, "parent", *(parent.instance_id for parent in parents))
        assert told == ["parent-1-child-1-taken", "parent-4-child-4-taken"]

    async def test_a_created_instance_may_start_others_with_its_first_turn(self, backend: Backend) -> None:
        parent, start = Instance("parent"), _start("child")
        await apply(backend, parent.turn(create=True, starts=[start]))
        assert list(await backend.get(["parent", "child"])) == [parent.record, start.record]

    async def test_of_concurrent_starts_of_one_id_one_wins(self, backend: Backend, other: Backend) -> None:
        parents = [Instance(f"parent-{number}") for number in range(10)]
        await create(backend, *parents)
        turns = [
            parent.turn(starts=[_start("child", parent.instance_id, f"c{number}")])
            for number, parent in enumerate(parents)
        ]
        writers = [backend, other] * 5
        await asyncio.gather(*(apply(writer, turn) for writer, turn in zip(writers, turns, strict=True)))
        child = await record_of(backend, "child")
        assert child.parent is not None
        losers = sorted({parent.instance_id for parent in parents} - {child.parent.instance_id})
        told = await inbox_of(backend, *(parent.instance_id for parent in parents))
        assert told == [f"{loser}-child-taken" for loser in losers]

    async def test_of_several_starts_of_one_id_in_one_call_one_wins(self, backend: Backend, other: Backend) -> None:
        parents = [Instance(f"parent-{number}") for number in range(3)]
        await create(backend, *parents)
        turns = [
            parent.turn(starts=[_start("child", parent.instance_id, f"c{number}")])
            for number, parent in enumerate(parents)
        ]
        await apply(backend, *turns)
        child = await record_of(other, "child")
        assert child.parent is not None
        losers = sorted({parent.instance_id for parent in parents} - {child.parent.instance_id})
        told = await inbox_of(other, *(parent.instance_id for parent in parents))
        assert told == [f"{loser}-child-taken" for loser in losers]
