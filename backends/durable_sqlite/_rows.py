"""Values of the port <-> rows. Columns stand in the order of the fields of the value they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import orjson

from durable.backend import Checkpoint, InstanceRecord, Message
from durable.core.codec import FORMAT, event_from_dict, failure_from_dict, failure_to_dict, shallow_dict, shallow_dicts
from durable.core.errors import FailureDetails, UnsupportedHistoryError
from durable.core.events import HistoryEvent, ParentInstance
from durable.core.state import RuntimeStatus

Row = tuple[Any, ...]

RECORD_COLUMNS = tuple(field.name for field in fields(InstanceRecord))
CHANGING_COLUMNS = (
    "execution_id",
    "updated_at",
    "input",
    "status",
    "completed_at",
    "output",
    "custom_status",
    "failure",
    "problem",
    "recoveries",
    "heartbeats",
    "rev",
)
"""The columns that a turn changes and that no index holds."""

INDEXED_COLUMNS = ("due_at", "purge_at")
"""The others that it changes."""

TERMINAL = ", ".join(f"'{status.value}'" for status in RuntimeStatus if status.is_terminal)
"""The terminal states as SQL, to stand in ``IN (...)``."""

ORCHESTRATIONS, ENTITIES = "substr(instance_id, 1, 1) != '@'", "substr(instance_id, 1, 1) = '@'"
"""What a record is of, as SQL. A partial index serves a query that has its condition letter for letter."""

EXPIRING = "purge_at IS NOT NULL AND hold IS NULL"
"""Which records have a time at which they may be purged, as SQL."""

_NULL = 0.5
"""What is bound for NULL in a record's optional columns: they hold texts and whole numbers."""

_REQUIRED = frozenset({"instance_id", "execution_id", "name", "partition", "created_at", "updated_at", "input"})
_REQUIRED |= {"status", "rev", "recoveries"}
_JSON_FIELDS = ("tags", "failure", "parent", "heartbeats")
_STATUS = RECORD_COLUMNS.index("status")
_TAGS, _FAILURE, _PARENT, _HEARTBEATS = (RECORD_COLUMNS.index(name) for name in _JSON_FIELDS)
_STATUS_TEXT = {status: str(status.value) for status in RuntimeStatus}  # sqlite3 binds a plain str several times faster


def parameter(column: str) -> str:
    """The parameter of a column of a record; optional ones take ``_NULL`` for NULL.

    To bind a None costs sqlite3 many times what a text or number costs, and most of a record is None.
    """
    return "?" if column in _REQUIRED else f"nullif(?, {_NULL})"


def placeholders(count: int) -> str:
    """``?, ?, ?`` for ``count`` values."""
    return ", ".join("?" * count)


def number_list(values: Collection[int]) -> str:
    """The parameter of ``IN (SELECT value FROM json_each(?))``, for numbers: SQLite cuts JSON strings at a NUL."""
    return orjson.dumps(list(values)).decode()


def record_to_row(record: InstanceRecord) -> Row:
    """The parameters of RECORD_COLUMNS."""
    return (
        record.instance_id,
        record.execution_id,
        record.name,
        record.partition,
        record.created_at,
        record.updated_at,
        record.input,
        _STATUS_TEXT[record.status],
        record.rev,
        _NULL if record.version is None else record.version,
        _NULL if record.tags is None else mapping_text(record.tags),
        _NULL if record.due_at is None else record.due_at,
        _NULL if record.completed_at is None else record.completed_at,
        _NULL if record.output is None else record.output,
        _NULL if record.custom_status is None else record.custom_status,
        _NULL if record.failure is None else _failure_text(record.failure),
        _NULL if record.problem is None else record.problem,
        record.recoveries,
        _NULL if record.parent is None else orjson.dumps(record.parent).decode(),
        _NULL if record.heartbeats is None else mapping_text(record.heartbeats),
        _NULL if record.purge_at is None else record.purge_at,
        _NULL if record.hold is None else record.hold,
    )


def record_from_row(row: Row) -> InstanceRecord:
    """The record that :func:`record_to_row` stored."""
    values = list(row)
    values[_STATUS] = RuntimeStatus(values[_STATUS])
    for index in (_TAGS, _FAILURE, _PARENT, _HEARTBEATS):
        if values[index] is not None:
            values[index] = orjson.loads(values[index])
    if values[_FAILURE] is not None:
        values[_FAILURE] = failure_from_dict(values[_FAILURE])
    if values[_PARENT] is not None:
        values[_PARENT] = ParentInstance(**values[_PARENT])
    return InstanceRecord(*values)


def record_to_change(record: InstanceRecord) -> Row:
    """The parameters of CHANGING_COLUMNS and INDEXED_COLUMNS, then ``instance_id`` and ``rev`` for the condition."""
    return (
        record.execution_id,
        record.updated_at,
        record.input,
        _STATUS_TEXT[record.status],
        _NULL if record.completed_at is None else record.completed_at,
        _NULL if record.output is None else record.output,
        _NULL if record.custom_status is None else record.custom_status,
        _NULL if record.failure is None else _failure_text(record.failure),
        _NULL if record.problem is None else record.problem,
        record.recoveries,
        _NULL if record.heartbeats is None else mapping_text(record.heartbeats),
        record.rev,
        _NULL if record.due_at is None else record.due_at,
        _NULL if record.purge_at is None else record.purge_at,
        record.instance_id,
        record.rev,
    )


def checkpoint_to_row(checkpoint: Checkpoint) -> Row:
    """``execution_id, seq, rev, token, recoveries, format, events``, then what the condition compares.

    That is ``instance_id, rev, execution_id, execution_id``. No parameter is numbered, as Python 3.12 to 3.12.3 warn
    of each that is (https://github.com/python/cpython/issues/117995).
    """
    return (
        checkpoint.execution_id,
        checkpoint.seq,
        checkpoint.rev,
        checkpoint.token,
        checkpoint.recoveries,
        FORMAT,
        orjson.dumps(shallow_dicts(checkpoint.events)).decode(),
        checkpoint.instance_id,
        checkpoint.rev,
        checkpoint.execution_id,
        checkpoint.execution_id,
    )


def checkpoint_from_row(instance_id: str, execution_id: str, row: Row) -> Checkpoint:
    """The checkpoint of a row ``seq, rev, token, recoveries, format, events``. Raises UnsupportedHistoryError."""
    seq, rev, token, recoveries, stored_format, events = row
    if stored_format > FORMAT:
        raise UnsupportedHistoryError(
            f"checkpoint {seq} of instance {instance_id!r} has format {stored_format}, "
            f"this version of durable knows {FORMAT}; upgrade this worker"
        )
    decoded = tuple(event_from_dict(event) for event in orjson.loads(events))
    return Checkpoint(instance_id, execution_id, seq, rev, token, decoded, recoveries)


def message_to_row(message: Message) -> Row:
    """``instance_id, message_id, partition, sent_at, execution_id, event``."""
    event = _event_text(message.event)
    key = (message.instance_id, message.message_id)
    return (*key, message.partition, message.sent_at, message.execution_id, event)


def message_from_row(row: Row) -> Message:
    """The message of a row with its fields in their order. Raises UnsupportedHistoryError."""
    message_id, instance_id, partition, sent_at, event, execution_id = row
    return Message(message_id, instance_id, partition, sent_at, event_from_dict(orjson.loads(event)), execution_id)


def mapping_text(mapping: Mapping[str, str] | None) -> str | None:
    """The column of a mapping of texts."""
    return None if mapping is None else orjson.dumps(dict(mapping)).decode()


def has_tags(stored: str | None, wanted: str) -> bool:
    """Whether a record's column ``tags`` has all pairs of ``wanted``, both as :func:`mapping_text` writes them."""
    return stored is not None and bool(orjson.loads(wanted).items() <= orjson.loads(stored).items())


def _event_text(event: HistoryEvent) -> str:
    return orjson.dumps(shallow_dict(event)).decode()


def _failure_text(failure: FailureDetails) -> str:
    return orjson.dumps(failure_to_dict(failure)).decode()
