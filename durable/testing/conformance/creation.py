"""Promises of ``create_instances`` and ``get``."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from durable.backend import Backend
from durable.core.errors import FailureDetails
from durable.core.events import ParentInstance
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    new_record,
    record_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


class CreationConformance(ConformanceFixtures):
    async def test_a_created_record_reads_back_as_it_was(self, backend: Backend, other: Backend) -> None:
        tags = {"team": "ö", "$set": "x", "a.b": "", "": "'"}
        parent = ParentInstance("the 'parent' $", "p1.3", 2**53 + 1, "root")
        large = '["' + "x" * 1_000_000 + '"]'
        full = new_record("full", version="1.2", tags=tags, due_at=T0 + 86_400 * SECOND, input=large, parent=parent)
        plain = new_record("plain", name="n", created_at=2**53 + 1)
        assert list(await backend.create_instances([full, plain])) == [None, None]
        for reader in (backend, other):
            assert list(await reader.get(["plain", "nobody", "full"])) == [plain, None, full]

    async def test_creating_again_with_the_same_execution_changes_nothing(
        self, backend: Backend, other: Backend
    ) -> None:
        instance = Instance("a")
        start = instance.record
        await create(backend, instance)
        assert list(await other.create_instances([start])) == [None]
        await apply(backend, instance.turn(custom_status='"on"'))
        assert list(await backend.create_instances([start])) == [None]
        assert await record_of(backend, "a") == instance.record

    async def test_creating_again_what_has_continued_as_new_changes_nothing(
        self, backend: Backend, other: Backend
    ) -> None:
        instance = Instance("a")
        start = instance.record
        await create(backend, instance)
        instance.continue_as("e1.12")
        await apply(backend, instance.turn(input="[3]"))
        assert list(await other.create_instances([start])) == [None]
        for stranger in ("e", "e11", "e2.12", "E1"):
            assert list(await other.create_instances([replace(start, execution_id=stranger)])) == [instance.record]
        assert await record_of(backend, "a") == instance.record

    async def test_an_id_that_is_taken_is_answered_with_its_record(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        assert list(await other.create_instances([new_record("a", "e2", input="[9]")])) == [instance.record]
        await apply(backend, instance.last_turn())
        assert list(await other.create_instances([new_record("a", "e2")])) == [instance.record]
        assert await record_of(backend, "a") == instance.record

    async def test_each_record_of_a_batch_stands_alone(self, backend: Backend) -> None:
        taken, repeated = new_record("taken"), new_record("repeated")
        await backend.create_instances([taken, repeated])
        new = [new_record(f"new-{number}") for number in range(3)]
        batch = [new[0], new_record("taken", "e2"), new[1], repeated, new[2]]
        assert list(await backend.create_instances(batch)) == [None, taken, None, None, None]
        assert list(await backend.get([record.instance_id for record in new])) == new

    async def test_a_batch_may_name_an_id_twice(self, backend: Backend) -> None:
        first, second = new_record("a", "e1"), new_record("a", "e2")
        assert list(await backend.create_instances([first, second, first])) == [None, first, None]
        assert list(await backend.get(["a", "nobody", "a"])) == [first, None, first]

    async def test_of_concurrent_creators_one_wins_each_id(self, backend: Backend, other: Backend) -> None:
        ids = [f"i{number}" for number in range(20)]
        ours = [new_record(instance_id, "ours") for instance_id in ids]
        theirs = [new_record(instance_id, "theirs") for instance_id in ids]
        answers = await asyncio.gather(backend.create_instances(ours), other.create_instances(theirs[::-1]))
        for our, their, our_answer, their_answer in zip(ours, theirs, answers[0], reversed(answers[1]), strict=True):
            won = our if our_answer is None else their
            assert (our_answer, their_answer) == ((None, our) if won is our else (their, None))
            assert await record_of(backend, our.instance_id) == won

    async def test_hostile_ids_and_texts_are_only_text(self, backend: Backend) -> None:
        instances = [Instance(instance_id, name=instance_id) for instance_id in HOSTILE_IDS]
        await create(backend, *instances)
        for number, instance in enumerate(instances):
            message = new_message(f"{instance.instance_id}/e1/7", instance.instance_id, sent_at=T0 + number)
            await backend.send([message])
            await backend.put_payloads(instance.instance_id, {"key": instance.instance_id.encode()})
        await apply(backend, *(instance.turn(token=instance.instance_id) for instance in instances))
        assert list(await backend.get(HOSTILE_IDS)) == [instance.record for instance in instances]
        for instance in instances:
            [checkpoint] = await backend.load(instance.instance_id, "e1")
            assert (checkpoint.instance_id, checkpoint.token) == (instance.instance_id, instance.instance_id)
            assert await inbox_of(backend, instance.instance_id) == [f"{instance.instance_id}/e1/7"]
            assert await backend.get_payloads(instance.instance_id, ["key"]) == {"key": instance.instance_id.encode()}

    async def test_reading_and_purging_a_hostile_id_touches_nothing_else(self, backend: Backend) -> None:
        instance = Instance("innocent")
        await create(backend, instance)
        await apply(backend, instance.last_turn())
        assert await backend.purge(HOSTILE_IDS) == 0
        assert list(await backend.get(HOSTILE_IDS)) == [None] * len(HOSTILE_IDS)
        assert not await backend.receive(HOSTILE_IDS)
        for text in HOSTILE_IDS:
            assert not await backend.load(text, text)
            assert not await backend.load("innocent", text)
        assert (await record_of(backend, "innocent")).status is RuntimeStatus.COMPLETED

    async def test_hostile_texts_in_all_fields_of_a_record(self, backend: Backend) -> None:
        instances = [
            Instance(
                f"i{number}",
                name=text,
                input=text,
                version=text,
                tags={"tag": text},
                parent=ParentInstance(text, text, number, text),
            )
            for number, text in enumerate(HOSTILE_TEXTS)
        ]
        ids = [instance.instance_id for instance in instances]
        await create(backend, *instances)
        assert list(await backend.get(ids)) == [instance.record for instance in instances]
        commits = [
            instance.turn(
                output=text,
                custom_status=text,
                problem=text,
                failure=FailureDetails("E", text, text),
                heartbeats={"0": text, text: "", "$set": "a.b"},
            )
            for instance, text in zip(instances, HOSTILE_TEXTS, strict=True)
        ]
        await apply(backend, *commits)
        assert list(await backend.get(ids)) == [instance.record for instance in instances]
