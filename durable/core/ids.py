"""Identifiers: the rules they follow, and what is derived from them.

Limits as in Durable Functions: instance ids have 1-256 characters, do not start with ``@``
(entities do), and hold none of ``/ \\ # ?`` and no control characters.
"""

from __future__ import annotations

import re
from zlib import crc32

_FORBIDDEN = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_HUB_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
MAX_INSTANCE_ID = 256


def check_instance_id(instance_id: str) -> str:
    """Return ``instance_id``, or raise ValueError naming the value and the rule it breaks."""
    if not isinstance(instance_id, str):
        raise TypeError(f"instance id must be a str, not {type(instance_id).__name__}: {instance_id!r}")
    if not 1 <= len(instance_id) <= MAX_INSTANCE_ID:
        raise ValueError(
            f"instance id must have 1 to {MAX_INSTANCE_ID} characters; {instance_id[:40]!r} has {len(instance_id)}"
        )
    if instance_id.startswith("@"):
        raise ValueError(f"instance id {instance_id!r} must not start with '@', which is kept for entities")
    found = _FORBIDDEN.search(instance_id)
    if found:
        raise ValueError(
            f"instance id {instance_id!r} must not contain {found.group()!r} "
            "(none of / \\ # ? and no control characters)"
        )
    try:
        instance_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"instance id {instance_id!r} is not valid Unicode text: {error.reason}") from error
    return instance_id


def check_hub_name(name: str) -> str:
    """Return the task hub's ``name``, or raise ValueError naming the rule it breaks."""
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(
            f"task hub name {name!r} must start with a letter and have 1 to 63 letters, digits or underscores"
        )
    return name


def partition_of(instance_id: str, partition_count: int) -> int:
    """The partition an instance belongs to, the same in every process and version."""
    return crc32(instance_id.encode()) % partition_count


def checkpoint_id(instance_id: str, execution_id: str, seq: int) -> str:
    """The unique key of a checkpoint: who inserts it first has committed."""
    return f"{instance_id}/{execution_id}/{seq:08d}"


def hash_salt(instance_id: str) -> int:
    """Base of the hashes of an instance's tasks.

    Plain creation numbers would collide between instances in asyncio's and anyio's
    process-wide registries and make starting them quadratic.
    """
    return crc32(instance_id.encode()) << 24
