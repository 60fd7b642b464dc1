"""Promises of ``query`` and ``annotate``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from durable.backend import Annotation, Backend, InstanceRecord, Query
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    new_record,
    query_all,
    record_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


def _ids(records: Iterable[InstanceRecord]) -> list[str]:
    return [record.instance_id for record in records]


class QueryConformance(ConformanceFixtures):
    async def test_a_query_without_conditions_lists_all_newest_first(self, backend: Backend, other: Backend) -> None:
        times = {"b": 2, "a": 2, "old": 1, "new": 9, "mid": 5, "Z": 2}
        records = {one: new_record(one, created_at=T0 + time * SECOND) for one, time in times.items()}
        await backend.create_instances(list(records.values()))
        expected = ["new", "mid", "b", "a", "Z", "old"]
        assert await query_all(other, Query()) == [records[one] for one in expected]
        assert _ids(await query_all(other, Query(page_size=1))) == expected

    async def test_each_condition_narrows_the_answer(self, backend: Backend) -> None:
        pending, running = Instance("a-pending"), Instance("a-running", name="other")
        ended, failed = Instance("b-ended", created_at=T0 + 10 * SECOND), Instance("b-failed", name="other")
        await create(backend, pending, running, ended, failed)
        failing = failed.last_turn(status=RuntimeStatus.FAILED)
        await apply(backend, running.turn(), ended.last_turn(), failing)

        async def found(**conditions: Any) -> set[str]:
            return set(_ids(await query_all(backend, Query(**conditions))))

        assert await found(status=(RuntimeStatus.PENDING,)) == {"a-pending"}
        both = (RuntimeStatus.COMPLETED, RuntimeStatus.FAILED)
        assert await found(status=both) == {"b-ended", "b-failed"}
        assert await found(name="other") == {"a-running", "b-failed"}
        assert await found(id_prefix="b-") == {"b-ended", "b-failed"}
        assert await found(created_from=T0 + SECOND) == {"b-ended"}
        assert await found(created_to=T0 + SECOND) == {"a-pending", "a-running", "b-failed"}
        assert await found(created_from=T0 - SECOND, created_to=T0 + SECOND, id_prefix="b-") == {"b-failed"}
        assert await found(status=both, name="other", id_prefix="b-f") == {"b-failed"}
        assert await found(name="nobody") == set()

    async def test_entities_and_orchestrations_are_listed_apart(self, backend: Backend, other: Backend) -> None:
        entities, orchestrations = ("@", "@@", "@a@1", "@é", "@\U0010ffff"), ("?", "A", "a@", "é@", "\uff20")
        records = {one: new_record(one, name="n") for one in (*entities, *orchestrations)}
        await backend.create_instances(list(records.values()))
        for ids, flag in ((entities, True), (orchestrations, False)):
            expected = [records[one] for one in sorted(ids, reverse=True)]
            for conditions in ({}, {"name": "n"}, {"status": (RuntimeStatus.PENDING,)}, {"page_size": 2}):
                assert await query_all(other, Query(entities=flag, **conditions)) == expected
        assert _ids(await query_all(other, Query(entities=True, id_prefix="@a"))) == ["@a@1"]
        assert _ids(await query_all(other, Query(id_prefix="@a"))) == []

    async def test_a_query_gives_whole_records(self, backend: Backend) -> None:
        instance = Instance("a", version="1", tags={"k": "v"})
        await create(backend, instance)
        await apply(backend, instance.last_turn(custom_status="[1]"))
        assert await query_all(backend, Query()) == [instance.record]

    async def test_pages_are_complete_and_unique_while_rows_come_and_change(
        self, backend: Backend, other: Backend
    ) -> None:
        instances = [Instance(f"i{number:02}", created_at=T0 + number // 6 * SECOND) for number in range(40)]
        await create(backend, *instances)
        query, seen, pages = Query(page_size=7), list[str](), 0
        while True:
            page = await backend.query(query)
            assert len(page.records) <= 7
            seen += _ids(page.records)
            if page.continuation is None:
                break
            pages += 1
            assert pages < 10
            query = replace(query, continuation=page.continuation)
            newer, older = f"newer-{pages}", f"older-{pages}"
            records = [new_record(newer, created_at=T0 + 99 * SECOND), new_record(older, created_at=T0 - pages)]
            records.append(new_record(f"i{pages:02}-between", created_at=T0 + pages * SECOND))
            await other.create_instances(records)
            await apply(other, instances[pages].turn(), instances[-pages].turn())
        there_throughout = {instance.instance_id for instance in instances}
        assert len(seen) == len(set(seen))
        assert there_throughout <= set(seen)
        assert pages >= 5

    async def test_paging_goes_on_past_a_purged_row(self, backend: Backend) -> None:
        instances = [Instance(f"i{number}", created_at=T0 + number) for number in range(6)]
        await create(backend, *instances)
        await apply(backend, *(instance.last_turn() for instance in instances))
        page = await backend.query(Query(page_size=3))
        assert _ids(page.records) == ["i5", "i4", "i3"]
        await backend.purge(["i3", "i2"])
        rest = await query_all(backend, Query(page_size=3, continuation=page.continuation))
        assert _ids(rest) == ["i1", "i0"]

    async def test_the_last_page_has_no_continuation(self, backend: Backend) -> None:
        await create(backend, *(Instance(f"i{number}") for number in range(3)))
        assert (await backend.query(Query(page_size=4))).continuation is None
        assert (await backend.query(Query(name="nobody"))).continuation is None
        assert (await backend.query(Query(page_size=2))).continuation is not None

    @pytest.mark.parametrize("page_size", [2, 100])
    async def test_hostile_names_and_prefixes_are_only_text(self, backend: Backend, page_size: int) -> None:
        records = [new_record(one, name=one) for one in HOSTILE_IDS]
        await backend.create_instances(records)
        for text in filter(None, HOSTILE_TEXTS):  # an empty condition always holds
            by_name = await query_all(backend, Query(name=text, page_size=page_size))
            assert _ids(by_name) == [one for one in HOSTILE_IDS if one == text]
            by_prefix = await query_all(backend, Query(id_prefix=text, page_size=page_size))
            expected = sorted((one for one in HOSTILE_IDS if one.startswith(text)), reverse=True)
            assert _ids(by_prefix) == expected

    async def test_a_continuation_from_elsewhere_is_a_value_error_or_harmless(self, backend: Backend) -> None:
        await create(backend, Instance("a"))
        for text in (*HOSTILE_TEXTS, "e30=", "WzEsMl0=", "[1]", "W10="):
            try:
                page = await backend.query(Query(continuation=text))
            except ValueError:
                continue
            assert set(_ids(page.records)) <= {"a"}

    # --- annotate

    async def test_annotate_says_why_an_instance_does_not_move(self, backend: Backend, other: Backend) -> None:
        instance, bystander = Instance("a"), Instance("b")
        await create(backend, instance, bystander)
        await apply(backend, instance.turn(due_at=0))
        problem = "no orchestrator 'x' is registered here ' \" $gt"
        beats = {"3": '{"done": 0.5}', "10": "\x00$"}
        await other.annotate([Annotation("a", 1, problem, 3, beats)])
        annotated = replace(instance.record, problem=problem, recoveries=3, heartbeats=beats)
        assert await record_of(backend, "a") == annotated
        await other.annotate([Annotation("a", 1, None, 0)])
        assert list(await backend.get(["a", "b"])) == [instance.record, bystander.record]

    async def test_annotate_of_another_revision_does_nothing(self, backend: Backend) -> None:
        instance, fresh = Instance("a"), Instance("fresh")
        await create(backend, instance, fresh)
        await apply(backend, instance.turn())
        await backend.annotate(
            [
                Annotation("a", 0, "late", 1, {"1": "late"}),
                Annotation("a", 2, "early", 1),
                Annotation("nobody", 0, "lost", 1),
                Annotation("fresh", 0, "stuck", 2),
            ]
        )
        stuck = replace(fresh.record, problem="stuck", recoveries=2)
        assert list(await backend.get(["a", "nobody", "fresh"])) == [instance.record, None, stuck]
