"""Reads over many instances: pages and counts of records, which have expired, and which have something to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from durable.backend import Page, Query, Wakeup
from durable.backend_queries import Grouping, check_grouping, continuation_of, position_of
from durable_mongodb import _driver
from durable_mongodb._documents import LIVE, TERMINAL, record_from_document, tag_to_document
from durable_mongodb._indexes import (
    BY_ID,
    HAS_CUSTOM_STATUS,
    INBOX_PARTITION,
    INSTANCES_CREATED,
    INSTANCES_CUSTOM_STATUS,
    INSTANCES_DUE,
    INSTANCES_ENTITIES,
    INSTANCES_EXPIRY,
    INSTANCES_NAME,
    INSTANCES_STATUS,
    INSTANCES_TAGS,
    IS_ENTITY,
    IS_EXPIRING,
    IS_TAGGED,
    IS_WAITING,
    IS_WHOLE,
)

_LAST_CHARACTER = "\U0010ffff"
_IS_NO_ENTITY = {"$or": [{"_id": {"$lt": "@"}}, {"_id": {"$gte": "A"}}]}

# --- query -----------------------------------------------------------------------------


async def read_page(instances: _driver.Collection, query: Query) -> Page:
    """See :meth:`durable.backend.Backend.query`. Raises ValueError for a ``continuation`` that no page gave.

    A page costs the documents that it passes over in its index. ``updated_from`` and ``updated_to`` have none, see
    ``_indexes``: they cost a walk through all instances that the other conditions leave.
    """
    direction = 1 if query.oldest_first else -1
    found = await instances.find(
        {"$and": [*_conditions(query), *_beyond(query)]},
        sort=(("created_at", direction), ("_id", direction)),
        limit=query.page_size + 1,
        index=_index_for(query) or INSTANCES_CREATED,
    )
    records = tuple(record_from_document(document) for document in found[: query.page_size])
    more = len(found) > len(records)
    return Page(records, continuation_of(query, records[-1].created_at, records[-1].instance_id) if more else None)


async def count(instances: _driver.Collection, query: Query, by: Grouping) -> dict[str, int]:
    """See :meth:`durable.backend.Backend.count`. It reads every document that the indexed condition leaves."""
    where = {"$and": list(_conditions(query))}
    stages: list[_driver.Document] = [{"$match": where}, {"$group": {"_id": f"${by}", "count": {"$sum": 1}}}]
    by_group = INSTANCES_STATUS if check_grouping(by) == "status" else INSTANCES_NAME
    groups = await instances.aggregate(stages, index=_index_for(query) or by_group)
    return {group["_id"]: int(group["count"]) for group in groups}


async def find_expired(instances: _driver.Collection, before: int, limit: int) -> Sequence[str]:
    """See :meth:`durable.backend.Backend.expired`."""
    where = {"purge_at": {"$lte": before} | IS_EXPIRING["purge_at"], "hold": None, "status": {"$in": TERMINAL}}
    sort = (("purge_at", 1), ("_id", 1))
    found = await instances.find(where, fields=["_id"], sort=sort, limit=limit, index=INSTANCES_EXPIRY)
    return [document["_id"] for document in found]


def _conditions(query: Query) -> Iterator[Mapping[str, Any]]:
    yield IS_WHOLE
    yield IS_ENTITY if query.entities else _IS_NO_ENTITY
    if query.status:
        yield {"status": {"$in": [status.value for status in query.status]}}
    if query.name is not None:
        yield {"name": {"$eq": query.name}}
    if query.id_prefix:
        yield {"_id": {"$gte": query.id_prefix}}
        if (end := _end_of_prefix(query.id_prefix)) is not None:
            yield {"_id": {"$lt": end}}
    for field, operator, time in (
        ("created_at", "$gte", query.created_from),
        ("created_at", "$lte", query.created_to),
        ("updated_at", "$gte", query.updated_from),
        ("updated_at", "$lte", query.updated_to),
    ):
        if time is not None:
            yield {field: {operator: time}}
    if query.tags:
        yield IS_TAGGED
        for name, value in query.tags.items():
            yield {"tags": {"$eq": tag_to_document(name, value)}}
    if query.custom_status is not None:
        yield HAS_CUSTOM_STATUS
        yield {"custom_status": {"$eq": query.custom_status}}


def _beyond(query: Query) -> Iterator[Mapping[str, Any]]:
    """What comes after the page before."""
    if (after := position_of(query)) is not None:
        created_at, instance_id = after
        further, at_least = ("$gt", "$gte") if query.oldest_first else ("$lt", "$lte")
        # The first condition says nothing that the second does not; it is what an index can follow.
        yield {"created_at": {at_least: created_at}}
        yield {"$or": [{"created_at": {further: created_at}}, {"_id": {further: instance_id}}]}


def _index_for(query: Query) -> str | None:
    """The index of the condition that is likely to leave least; None when there is no such condition."""
    if query.custom_status is not None:
        return INSTANCES_CUSTOM_STATUS
    if query.tags:
        return INSTANCES_TAGS
    if query.name is not None:
        return INSTANCES_NAME
    if query.id_prefix:
        return BY_ID
    if query.entities:
        return INSTANCES_ENTITIES
    return INSTANCES_STATUS if query.status else None


def _end_of_prefix(prefix: str) -> str | None:
    """The first string after all that start with ``prefix``, in the order of code points; None when there is none."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates: not characters, and not to be stored
        following = 0xE000
    return stem[:-1] + chr(following)


# --- runnable --------------------------------------------------------------------------


async def find_runnable(
    instances: _driver.Collection,
    inbox: _driver.Collection,
    partitions: Collection[int],
    until: int,
    *,
    include_busy: bool,
    after: str | None,
    limit: int,
) -> list[Wakeup]:
    """See :meth:`durable.backend.Backend.runnable`."""
    among = {"$in": sorted(partitions)}
    found = await _due(instances, among, until, include_busy=include_busy, after=after, limit=limit)
    for instance_id in await _with_messages(inbox, among, after, limit):
        found[instance_id] = 0
    return [Wakeup(instance_id, found[instance_id]) for instance_id in sorted(found)[:limit]]


async def _due(
    instances: _driver.Collection,
    partitions: dict[str, Any],
    until: int,
    *,
    include_busy: bool,
    after: str | None,
    limit: int,
) -> dict[str, int]:
    where: dict[str, Any] = {
        "partition": partitions,
        "due_at": {"$gte" if include_busy else "$gt": 0, "$lte": until},
        "status": {"$in": LIVE},
    }
    if after is not None:
        where["_id"] = {"$gt": after}
    documents = await instances.find(where, fields=["due_at"], sort=[("_id", 1)], limit=limit, index=INSTANCES_DUE)
    return {document["_id"]: int(document["due_at"]) for document in documents}


async def _with_messages(
    inbox: _driver.Collection, partitions: dict[str, Any], after: str | None, limit: int
) -> list[str]:
    """The first ``limit`` instances, by id, that a message waits for."""
    where: dict[str, Any] = {"partition": partitions} | IS_WAITING
    if after is not None:
        where["instance_id"] = {"$gt": after}
    groups = await inbox.aggregate(
        [{"$match": where}, {"$group": {"_id": "$instance_id"}}, {"$sort": {"_id": 1}}, {"$limit": limit}],
        index=INBOX_PARTITION,
    )
    return [group["_id"] for group in groups]
