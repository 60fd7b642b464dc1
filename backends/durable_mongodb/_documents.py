"""Records, checkpoints and messages <-> documents, readable in any viewer.

Rule of this file: nothing that comes from a user becomes a field name (it could hold ``.`` or ``$``), and
every integer comes back as a plain int (BSON's 64-bit ones are a class of their own).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable.backend import Annotation, InstanceRecord, Message, WorkerInfo
from durable.core.codec import event_from_dict, event_to_dict, failure_from_dict, failure_to_dict
from durable.core.events import HistoryEvent, ParentInstance
from durable.core.ids import generation_of
from durable.core.state import RuntimeStatus
from durable_mongodb._driver import Document, plain

LIVE = [status.value for status in RuntimeStatus if not status.is_terminal]
TERMINAL = [status.value for status in RuntimeStatus if status.is_terminal]

_OF_TRACES = ("root_execution_id", "traceparent")
_NEVER_CHANGE = frozenset({"_id", "name", "partition", "created_at", "version", "tags", "parent", "hold"})


def tag_to_document(name: str, value: str) -> Document:
    """One tag. It is looked for as a whole, so the order of its fields is part of its form."""
    return {"name": name, "value": value}


def _tags_to_list(tags: Mapping[str, str] | None) -> list[Document] | None:
    return None if tags is None else [tag_to_document(name, value) for name, value in tags.items()]


def _tags_from_list(stored: list[Document] | None) -> dict[str, str] | None:
    return None if stored is None else {tag["name"]: tag["value"] for tag in stored}


def _heartbeats_to_list(heartbeats: Mapping[str, str] | None) -> list[Document] | None:
    return None if heartbeats is None else [{"task": task, "details": text} for task, text in heartbeats.items()]


def _heartbeats_from_list(stored: list[Document] | None) -> dict[str, str] | None:
    return None if stored is None else {heartbeat["task"]: heartbeat["details"] for heartbeat in stored}


def _parent_to_document(parent: ParentInstance | None) -> Document | None:
    if parent is None:
        return None
    return {
        "instance_id": parent.instance_id,
        "execution_id": parent.execution_id,
        "task_id": parent.task_id,
        "root_instance_id": parent.root_instance_id,
        **{name: one for name in _OF_TRACES if (one := getattr(parent, name)) is not None},
    }


def _parent_from_document(stored: Document | None) -> ParentInstance | None:
    if stored is None:
        return None
    required = (stored["instance_id"], stored["execution_id"], stored["task_id"], stored["root_instance_id"])
    return ParentInstance(*required, *map(stored.get, _OF_TRACES))


# --- instances -------------------------------------------------------------------------


def record_to_document(record: InstanceRecord) -> Document:
    """The document of a record."""
    return {
        "_id": record.instance_id,
        "execution_id": record.execution_id,
        "name": record.name,
        "partition": record.partition,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "input": record.input,
        "status": record.status.value,
        "rev": record.rev,
        "version": record.version,
        "tags": _tags_to_list(record.tags),
        "due_at": record.due_at,
        "completed_at": record.completed_at,
        "output": record.output,
        "custom_status": record.custom_status,
        "failure": failure_to_dict(record.failure) if record.failure is not None else None,
        "problem": record.problem,
        "recoveries": record.recoveries,
        "parent": _parent_to_document(record.parent),
        "heartbeats": _heartbeats_to_list(record.heartbeats),
        "purge_at": record.purge_at,
        "hold": record.hold,
    }


def start_to_document(record: InstanceRecord) -> Document:
    """The document of an instance that begins with its first checkpoint, as it is before: due, and no more."""
    start = InstanceRecord(
        record.instance_id,
        record.execution_id,
        record.name,
        record.partition,
        record.created_at,
        record.created_at,
        record.input,
        version=record.version,
        tags=record.tags,
        due_at=record.created_at,
        parent=record.parent,
    )
    return record_to_document(start)


def record_changes(record: InstanceRecord) -> Document:
    """The fields of a record's document that checkpoints change.

    The input does only with a new execution; the first one's need not be written at each turn.
    """
    changes = {name: value for name, value in record_to_document(record).items() if name not in _NEVER_CHANGE}
    if generation_of(record.execution_id) == 0:
        del changes["input"]
    return changes


def note_changes(note: Annotation) -> Document:
    """The fields of a record's document that an annotation sets."""
    return {
        "problem": note.problem,
        "recoveries": note.recoveries,
        "heartbeats": _heartbeats_to_list(note.heartbeats),
    }


def record_from_document(document: Mapping[str, Any]) -> InstanceRecord:
    """The record that :func:`record_to_document` stored."""
    values = plain(document)
    return InstanceRecord(
        values["_id"],
        values["execution_id"],
        values["name"],
        values["partition"],
        values["created_at"],
        values["updated_at"],
        values["input"],
        status=RuntimeStatus(values["status"]),
        rev=values["rev"],
        version=values["version"],
        tags=_tags_from_list(values["tags"]),
        due_at=values["due_at"],
        completed_at=values["completed_at"],
        output=values["output"],
        custom_status=values["custom_status"],
        failure=failure_from_dict(values["failure"]) if values["failure"] is not None else None,
        problem=values["problem"],
        recoveries=values["recoveries"],
        parent=_parent_from_document(values["parent"]),
        heartbeats=_heartbeats_from_list(values["heartbeats"]),
        purge_at=values.get("purge_at"),  # not in documents of an earlier version
        hold=values.get("hold"),
    )


# --- events, messages, workers ---------------------------------------------------------


def event_to_document(event: HistoryEvent) -> Document:
    """The sub-document of an event: the codec's form, with tags as a list."""
    stored = event_to_dict(event)
    if "tags" in stored:
        stored["tags"] = _tags_to_list(stored["tags"])
    return stored


def event_from_document(document: Mapping[str, Any]) -> HistoryEvent:
    """The event that :func:`event_to_document` stored. Raises UnsupportedHistoryError for one that is not known."""
    stored = plain(document)
    if isinstance(stored.get("tags"), list):
        stored["tags"] = _tags_from_list(stored["tags"])
    return event_from_dict(stored)


def message_to_document(message: Message) -> Document:
    """The document of a message that waits; ``consumed_at`` above 0 makes it a tombstone."""
    return {
        "_id": message.message_id,
        "instance_id": message.instance_id,
        "partition": message.partition,
        "execution_id": message.execution_id,
        "sent_at": message.sent_at,
        "consumed_at": 0,
        "event": event_to_document(message.event),
    }


def message_from_document(document: Mapping[str, Any]) -> Message:
    """The message that :func:`message_to_document` stored. Raises UnsupportedHistoryError as its event does."""
    values = plain(document)
    return Message(
        values["_id"],
        values["instance_id"],
        values["partition"],
        values["sent_at"],
        event_from_document(values["event"]),
        values["execution_id"],
    )


def worker_to_document(worker: WorkerInfo, expires_at: int) -> Document:
    """The document of a worker that lives until ``expires_at``."""
    return {
        "host": worker.host,
        "pid": worker.pid,
        "process_started": worker.process_started,
        "started_at": worker.started_at,
        "expires_at": expires_at,
    }


def worker_from_document(document: Mapping[str, Any]) -> WorkerInfo:
    """The worker that :func:`worker_to_document` stored."""
    values = plain(document)
    return WorkerInfo(values["_id"], values["host"], values["pid"], values["process_started"], values["started_at"])
