"""Identifiers: the rules they follow, and what is derived from them.

Limits as in Durable Functions: instance ids have 1-256 characters, do not start with ``@``
(entities do), and hold none of ``/ \\ # ?`` and no control characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha1
from uuid import NAMESPACE_OID, UUID, uuid5
from zlib import crc32

_FORBIDDEN = re.compile(r"[/\\#?\x00-\x1f\x7f-\x9f]")
_HUB_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_EXECUTION_NAMESPACE = uuid5(NAMESPACE_OID, "durable.execution")
MAX_INSTANCE_ID = 256
_CHILD_NAMESPACE = uuid5(NAMESPACE_OID, "durable.child")

TRACEPARENT, TRACESTATE, BAGGAGE = "durable.traceparent", "durable.tracestate", "durable.baggage"
"""Tags in which a start carries its caller's trace context, in the forms of W3C."""


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


def check_event_name(name: str) -> str:
    """Return an external event's name, or raise ValueError naming the rule it breaks."""
    if not isinstance(name, str) or not 1 <= len(name) <= 256 or not name.isprintable():
        raise ValueError(f"event name {name!r} must be 1 to 256 printable characters")
    return name


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


def child_id(instance_id: str, execution_id: str, task_id: int) -> str:
    """The id of a child that was called without one: the same for the same call at every replay, and of no other."""
    unique = _hex_of_uuid5(_CHILD_NAMESPACE, f"{instance_id}/{execution_id}/{task_id}")
    return f"{instance_id[:200]}:{unique[:16]}"


def child_execution_id(instance_id: str, execution_id: str, task_id: int) -> str:
    """The first execution of the instance that a call starts."""
    return _hex_of_uuid5(_EXECUTION_NAMESPACE, f"{instance_id}/{execution_id}/{task_id}")


def _hex_of_uuid5(namespace: UUID, name: str) -> str:
    """``uuid5(namespace, name).hex``, without the object that is made and thrown away for each child."""
    digest = bytearray(sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # version 5 of RFC 9562
    digest[8] = digest[8] & 0x3F | 0x80  # and its variant
    return digest.hex()


def next_execution_id(execution_id: str) -> str:
    """The id of the execution that follows when one continues as new."""
    start, generation = _start_and_generation(execution_id)
    return f"{start}.{generation + 1}"


def earlier_execution_id(execution_id: str, back: int) -> str | None:
    """The id of the execution ``back`` generations before; None: there was none."""
    start, generation = _start_and_generation(execution_id)
    if back > generation:
        return None
    return start if back == generation else f"{start}.{generation - back}"


def generation_of(execution_id: str) -> int:
    """How often the instance had continued as new when this execution began."""
    return _start_and_generation(execution_id)[1]


def start_of(execution_id: str) -> str:
    """The first execution of the start that an execution goes back to."""
    return _start_and_generation(execution_id)[0]


def goes_back_to(execution_id: str, earlier: str) -> bool:
    """Whether ``earlier``, which may be any text, is an execution of the same start, that one or one before it."""
    start, generation = _start_and_generation(execution_id)
    first, dot, number = earlier.partition(".")
    if first != start or not dot:
        return first == start
    is_number = number.isascii() and number.isdecimal() and number[0] != "0" and len(number) <= len(str(generation))
    return is_number and int(number) <= generation


def same_start(execution_id: str, other: str) -> bool:
    """Whether two executions go back to the same start of an instance."""
    return _start_and_generation(execution_id)[0] == _start_and_generation(other)[0]


def _start_and_generation(execution_id: str) -> tuple[str, int]:
    start, _, generation = execution_id.partition(".")
    return start, int(generation or 0)


def hash_salt(instance_id: str) -> int:
    """Base of the hashes of an instance's tasks.

    Plain creation numbers would collide between instances in asyncio's and anyio's
    process-wide registries and make starting them quadratic.
    """
    return crc32(instance_id.encode()) << 24


@dataclass(frozen=True, slots=True)
class EntityId:
    """Which entity: its ``name`` (case does not count; kept in lower case) and its ``key`` (case counts).

    Its text, ``@name@key``, is the id of the instance that it is. Raises ValueError naming the rule it breaks.
    """

    name: str
    key: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", check_entity_name(self.name))
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"entity key must be a text that is not empty, not {self.key!r}")
        check_instance_id(f"{self.name}@{self.key}")

    def __str__(self) -> str:
        return f"@{self.name}@{self.key}"

    @classmethod
    def parse(cls, text: str) -> EntityId:
        """The id whose text is ``@name@key``. Raises ValueError for any other text."""
        start, name, key = (*text.split("@", 2), "", "")[:3]
        if start or not name or not key:
            raise ValueError(f"{text!r} is not the id of an entity; it must be @name@key")
        return cls(name, key)


def is_entity(instance_id: str) -> bool:
    """Whether an instance is an entity."""
    return instance_id.startswith("@")


def check_entity_name(name: str) -> str:
    """An entity's name in lower case, or ValueError naming the rule it breaks."""
    if not isinstance(name, str) or not name or "@" in name or len(name) > 100:
        raise ValueError(f"entity name {name!r} must have 1 to 100 characters and no '@'")
    check_instance_id(name)
    return name.lower()
