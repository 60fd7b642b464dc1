"""Promises of ``query`` by time of change, tags and custom status, in both orders, and of ``count``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import pytest

from durable.backend import Backend, InstanceRecord, Query
from durable.backend_queries import Grouping
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    HOSTILE_TEXTS,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    new_record,
    query_all,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


def _ids(records: Iterable[InstanceRecord]) -> list[str]:
    return [record.instance_id for record in records]


async def _found(backend: Backend, **conditions: Any) -> set[str]:
    return set(_ids(await query_all(backend, Query(**conditions))))


class FindingConformance(ConformanceFixtures):
    async def test_the_time_of_the_last_change_narrows_a_query(self, backend: Backend, other: Backend) -> None:
        still, once, twice = Instance("still"), Instance("once"), Instance("twice")
        await create(backend, still, once, twice)
        await apply(backend, once.turn(), twice.turn())
        await apply(backend, twice.last_turn())
        assert await _found(other, updated_from=T0 + SECOND) == {"once", "twice"}
        assert await _found(other, updated_from=T0 + SECOND + 1) == {"twice"}
        assert await _found(other, updated_to=T0 + SECOND) == {"still", "once"}
        assert await _found(other, updated_to=T0 + SECOND - 1) == {"still"}
        assert await _found(other, updated_from=T0 + SECOND, updated_to=T0 + SECOND) == {"once"}
        assert await _found(other, updated_from=T0, status=(RuntimeStatus.COMPLETED,)) == {"twice"}
        assert await _found(other, updated_from=T0 + 3 * SECOND) == set()

    async def test_all_tags_of_a_query_must_match(self, backend: Backend, other: Backend) -> None:
        tags: dict[str, dict[str, str] | None] = {
            "both": {"team": "a", "size": "1"},
            "swapped": {"size": "1", "team": "a"},
            "one": {"team": "a"},
            "crossed": {"a": "team", "1": "size"},
            "none": None,
        }
        await create(backend, *(Instance(name, tags=some) for name, some in tags.items()))
        assert await _found(other, tags={"team": "a"}) == {"both", "swapped", "one"}
        assert await _found(other, tags={"team": "a", "size": "1"}) == {"both", "swapped"}
        assert await _found(other, tags={"team": "a", "size": "2"}) == set()
        assert await _found(other, tags={"team": "1"}) == set()
        assert await _found(other, tags={"team": "A"}) == set()
        assert await _found(other, tags={}) == set(tags)
        assert await _found(other, tags={"team": "a"}, id_prefix="o") == {"one"}

    async def test_hostile_tags_are_only_text(self, backend: Backend) -> None:
        names = {f"i{number:02}": text for number, text in enumerate(HOSTILE_TEXTS)}
        await create(backend, *(Instance(name, tags={text: "v", "k": text}) for name, text in names.items()))
        for name, text in names.items():
            assert await _found(backend, tags={text: "v"}) == {name}
            assert await _found(backend, tags={"k": text}) == {name}
        assert await _found(backend, tags={'k":"': "v"}) == set()

    async def test_the_custom_status_is_compared_as_text(self, backend: Backend, other: Backend) -> None:
        texts = [
            '"a"',
            '"A"',
            '"a "',
            "1",
            "1.0",
            '{"a":1}',
            '"%"',
            '"\\u0000"',
            '{"$gt":""}',
            '""',
            '"' + "x" * 3000 + '"',
        ]
        instances = {text: Instance(f"i{number:02}") for number, text in enumerate(texts)}
        bare = Instance("bare")
        await create(backend, *instances.values(), bare)
        await apply(backend, *(one.turn(custom_status=text) for text, one in instances.items()), bare.turn())
        for text, one in instances.items():
            assert await _found(other, custom_status=text) == {one.instance_id}
        assert await _found(other, custom_status='"b"') == set()
        changed = instances["1"]
        await apply(backend, changed.last_turn(custom_status='"b"'))
        assert await _found(other, custom_status="1") == set()
        assert await _found(other, custom_status='"b"', status=(RuntimeStatus.COMPLETED,)) == {changed.instance_id}

    @pytest.mark.parametrize(
        "conditions",
        [
            {},
            {"name": "n"},
            {"tags": {"k": "v"}},
            {"custom_status": "1"},
            {"status": (RuntimeStatus.RUNNING,)},
            {"id_prefix": "i"},
            {"updated_from": T0},
        ],
        ids=lambda conditions: next(iter(conditions), "all"),
    )
    async def test_both_orders_are_paged_whole(self, backend: Backend, conditions: dict[str, Any]) -> None:
        instances = [
            Instance(f"i{number:02}", name="n", tags={"k": "v"}, created_at=T0 + number // 4 * SECOND)
            for number in range(17)
        ]
        await create(backend, *instances)
        await apply(backend, *(one.turn(custom_status="1") for one in instances))
        ids = [one.instance_id for one in instances]
        for page_size in (1, 5, 17):
            query = Query(**conditions, page_size=page_size)
            assert _ids(await query_all(backend, query)) == ids[::-1]
            assert _ids(await query_all(backend, replace(query, oldest_first=True))) == ids

    async def test_oldest_first_goes_on_to_what_is_created_meanwhile(self, backend: Backend, other: Backend) -> None:
        await create(backend, *(Instance(f"i{number}", created_at=T0 + number) for number in range(4)))
        page = await backend.query(Query(oldest_first=True, page_size=3))
        assert _ids(page.records) == ["i0", "i1", "i2"]
        await other.create_instances([new_record("late", created_at=T0 + 9), new_record("early", created_at=T0 - 9)])
        rest = Query(oldest_first=True, page_size=3, continuation=page.continuation)
        assert _ids(await query_all(backend, rest)) == ["i3", "late"]

    async def test_a_continuation_of_the_other_order_is_refused(self, backend: Backend) -> None:
        await create(backend, *(Instance(f"i{number}") for number in range(3)))
        for oldest_first in (True, False):
            page = await backend.query(Query(oldest_first=oldest_first, page_size=1))
            assert page.continuation is not None
            with pytest.raises(ValueError, match="continuation"):
                await backend.query(Query(oldest_first=not oldest_first, continuation=page.continuation))

    # --- count

    async def test_counts_are_by_status_and_by_name(self, backend: Backend, other: Backend) -> None:
        instances = [Instance(f"i{number}", name="even" if number % 2 == 0 else "odd") for number in range(7)]
        await create(backend, *instances, Instance("@e@1", name="entity"))
        await apply(backend, *(one.turn() for one in instances[:4]))
        await apply(backend, *(one.last_turn() for one in instances[:2]))
        assert await other.count(Query(), "status") == {"Completed": 2, "Running": 2, "Pending": 3}
        assert await other.count(Query(), "name") == {"even": 4, "odd": 3}
        assert await other.count(Query(entities=True), "name") == {"entity": 1}
        assert await other.count(Query(name="odd"), "status") == {"Completed": 1, "Running": 1, "Pending": 1}
        assert await other.count(Query(status=(RuntimeStatus.COMPLETED,)), "name") == {"even": 1, "odd": 1}
        assert await other.count(Query(name="nobody"), "status") == {}

    async def test_a_count_is_of_all_that_match_whatever_the_page(self, backend: Backend) -> None:
        instances = [Instance(f"i{number}", tags={"k": str(number % 2)}) for number in range(9)]
        await create(backend, *instances)
        await apply(backend, *(one.turn(custom_status="1") for one in instances[:3]))
        page = await backend.query(Query(page_size=2))
        query = Query(page_size=2, continuation=page.continuation)
        assert await backend.count(query, "name") == {"orchestrator": 9}
        assert await backend.count(replace(query, tags={"k": "0"}), "name") == {"orchestrator": 5}
        assert await backend.count(replace(query, custom_status="1"), "status") == {"Running": 3}
        assert await backend.count(replace(query, updated_from=T0 + 1), "status") == {"Running": 3}
        assert await backend.count(replace(query, id_prefix="i8", created_to=T0), "status") == {"Pending": 1}

    @pytest.mark.parametrize("by", ["", "input", "status, name", "$status", "_id"])
    async def test_a_count_by_anything_else_is_refused(self, backend: Backend, by: str) -> None:
        with pytest.raises(ValueError, match="by 'status' or 'name'"):
            await backend.count(Query(), cast("Grouping", by))

    async def test_counted_names_are_only_text(self, backend: Backend) -> None:
        await create(backend, *(Instance(f"i{number}", name=text) for number, text in enumerate(HOSTILE_TEXTS)))
        assert await backend.count(Query(), "name") == dict.fromkeys(HOSTILE_TEXTS, 1)
