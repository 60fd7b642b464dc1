"""The indexes of a task hub's collections, and their names, which queries give as hints.

Partial ones keep out what is most of a long-lived hub and never asked for: instances that wait for nothing, and
consumed messages. A query finds such an index only when it repeats the filter.

Each index is paid for by the writes that change its keys. Tags never change: an entry for each is written when the
instance is created. A custom status is an entry for each change, in hubs whose orchestrators set one. ``updated_at``
changes each turn and has no index: a query by it walks the instances in the order of their creation.
"""

from __future__ import annotations

from typing import Any

from durable_mongodb._driver import IndexModel

LAYOUT = 3
"""Version of the collections and indexes; raise it with them, so that hubs that exist get what is new."""

BY_ID = "_id_"  # the one every collection has
INSTANCES_DUE = "due"
INSTANCES_CREATED = "created"
INSTANCES_STATUS = "status"
INSTANCES_NAME = "name"
INSTANCES_ENTITIES = "entities"
INSTANCES_TAGS = "tags"
INSTANCES_CUSTOM_STATUS = "custom_status"
INSTANCES_EXPIRY = "expiry"
HISTORY_ORDER = "order"
INBOX_PARTITION = "waiting"
INBOX_INSTANCE = "instance"
INBOX_CONSUMED = "consumed"
PAYLOADS_KEY = "key"
TASKS_TURNS = "turns"

IS_SCHEDULED = {"due_at": {"$gte": 0}}
IS_WAITING = {"consumed_at": 0}
IS_TAGGED = {"tags.name": {"$gte": ""}}
HAS_CUSTOM_STATUS = {"custom_status": {"$gte": ""}}
IS_EXPIRING = {"purge_at": {"$gte": 0}}
IS_WHOLE = {"purging": None}
"""No purge has begun to delete what belongs to the instance."""
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
        _index(INSTANCES_TAGS, "tags", "created_at", "_id", only=IS_TAGGED),
        _index(INSTANCES_CUSTOM_STATUS, "custom_status", "created_at", "_id", only=HAS_CUSTOM_STATUS),
        _index(INSTANCES_EXPIRY, "purge_at", "_id", "hold", "status", only=IS_EXPIRING),
    ),
    "history": (_index(HISTORY_ORDER, "instance_id", "execution_id", "seq"),),
    "inbox": (
        _index(INBOX_PARTITION, "partition", "instance_id", only=IS_WAITING),
        _index(INBOX_INSTANCE, "instance_id", "consumed_at", "sent_at", "_id"),
        _index(INBOX_CONSUMED, "consumed_at", only={"consumed_at": {"$gt": 0}}),
    ),
    "payloads": (_index(PAYLOADS_KEY, "instance_id", "key", "piece"),),
    "tasks": (_index(TASKS_TURNS, "queue", "rank", "_id", "name", "key"),),
}
"""By collection."""
