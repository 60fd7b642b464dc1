"""The indexes of a task hub's collections, and their names, which queries give as hints.

Partial ones keep out what is most of a long-lived hub and never asked for: instances that wait for nothing, and
consumed messages. A query finds such an index only when it repeats the filter.
"""

from __future__ import annotations

from typing import Any

from durable_mongodb._driver import IndexModel

LAYOUT = 1
"""Version of the collections and indexes; raise it with them, so that hubs that exist get what is new."""

BY_ID = "_id_"  # the one every collection has
INSTANCES_DUE = "due"
INSTANCES_CREATED = "created"
INSTANCES_STATUS = "status"
INSTANCES_NAME = "name"
INSTANCES_ENTITIES = "entities"
HISTORY_ORDER = "order"
INBOX_PARTITION = "waiting"
INBOX_INSTANCE = "instance"
INBOX_CONSUMED = "consumed"
PAYLOADS_KEY = "key"

IS_SCHEDULED = {"due_at": {"$gte": 0}}
IS_WAITING = {"consumed_at": 0}
IS_ENTITY = {"_id": {"$gte": "@", "$lt": "A"}}
"""The ids that begin with ``@``: ``A`` is the character after it."""


def _index(name: str, *keys: str, only: dict[str, Any] | None = None) -> IndexModel:
    options = {"partialFilterExpression": only} if only is not None else {}
    return IndexModel([(key, 1) for key in keys], name=name, **options)


INDEXES = {
    "instances": (
        _index(INSTANCES_DUE, "partition", "due_at", "_id", "status", only=IS_SCHEDULED),
        _index(INSTANCES_CREATED, "created_at", "_id"),
        _index(INSTANCES_STATUS, "status", "created_at", "_id"),
        _index(INSTANCES_NAME, "name", "created_at", "_id"),
        _index(INSTANCES_ENTITIES, "created_at", "_id", only=IS_ENTITY),
    ),
    "history": (_index(HISTORY_ORDER, "instance_id", "execution_id", "seq"),),
    "inbox": (
        _index(INBOX_PARTITION, "partition", "instance_id", only=IS_WAITING),
        _index(INBOX_INSTANCE, "instance_id", "consumed_at", "sent_at", "_id"),
        _index(INBOX_CONSUMED, "consumed_at", only={"consumed_at": {"$gt": 0}}),
    ),
    "payloads": (_index(PAYLOADS_KEY, "instance_id", "key", "piece"),),
}
"""By collection."""
