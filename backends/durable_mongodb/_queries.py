"""Reads over many instances: pages of records, and which instances have something to do."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson

from durable.backend import InstanceRecord, Page, Query, Wakeup
from durable_mongodb import _driver
from durable_mongodb._documents import LIVE, record_from_document
from durable_mongodb._indexes import (
    BY_ID,
    INBOX_PARTITION,
    INSTANCES_CREATED,
    INSTANCES_DUE,
    INSTANCES_ENTITIES,
    INSTANCES_NAME,
    INSTANCES_STATUS,
    IS_ENTITY,
    IS_WAITING,
)

_LAST_CHARACTER = "\U0010ffff"
_IS_NO_ENTITY = {"$or": [{"_id": {"$lt": "@"}}, {"_id": {"$gte": "A"}}]}
_NEWEST_FIRST = (("created_at", -1), ("_id", -1))

# --- query -----------------------------------------------------------------------------


async def read_page(instances: _driver.Collection, query: Query) -> Page:
    """See :meth:`durable.backend.Backend.query`. Raises ValueError for a ``continuation`` that no page gave."""
    found = await instances.find(
        {"$and": list(_conditions(query))},
        sort=_NEWEST_FIRST,
        limit=query.page_size + 1,
        index=_index_for(query),
    )
    records = tuple(record_from_document(document) for document in found[: query.page_size])
    return Page(records, _continuation(records[-1]) if len(found) > len(records) else None)


def _conditions(query: Query) -> Iterator[Mapping[str, Any]]:
    yield IS_ENTITY if query.entities else _IS_NO_ENTITY
    if query.status:
        yield {"status": {"$in": [status.value for status in query.status]}}
    if query.name is not None:
        yield {"name": {"$eq": query.name}}
    if query.id_prefix:
        yield {"_id": {"$gte": query.id_prefix}}
        if (end := _end_of_prefix(query.id_prefix)) is not None:
            yield {"_id": {"$lt": end}}
    if query.created_from is not None:
        yield {"created_at": {"$gte": query.created_from}}
    if query.created_to is not None:
        yield {"created_at": {"$lte": query.created_to}}
    if query.continuation is not None:
        created_at, instance_id = _position(query.continuation)
        # The first condition says nothing that the second does not; it is what an index can follow.
        yield {"created_at": {"$lte": created_at}}
        yield {"$or": [{"created_at": {"$lt": created_at}}, {"_id": {"$lt": instance_id}}]}


def _index_for(query: Query) -> str:
    if query.name is not None:
        return INSTANCES_NAME
    if query.id_prefix:
        return BY_ID
    if query.entities:
        return INSTANCES_ENTITIES
    return INSTANCES_STATUS if query.status else INSTANCES_CREATED


def _end_of_prefix(prefix: str) -> str | None:
    """The first string after all that start with ``prefix``, in the order of code points; None when there is none."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates: not characters, and not to be stored
        following = 0xE000
    return stem[:-1] + chr(following)


def _continuation(last: InstanceRecord) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([last.created_at, last.instance_id])).decode()


def _position(continuation: str) -> tuple[int, str]:
    try:
        created_at, instance_id = orjson.loads(base64.urlsafe_b64decode(continuation))
        return int(created_at), str(instance_id)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"continuation {continuation[:40]!r} is not one that a page gave") from error


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
