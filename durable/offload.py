"""Large values at the storage boundary: stored apart, named by a reference in history and record.

Rule of this file: nothing else knows of references. A value above the threshold leaves the
process as ``@payload:<sha256>:<bytes>`` - no JSON text starts with ``@`` - and comes back whole. The key
is the content's hash under the instance, so storing it twice changes nothing and purging the
instance removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from typing import Any, Protocol, TypeVar

from durable.backend import Backend, BackendError, Checkpoint, Commit, InstanceRecord
from durable.core import events as ev
from durable.core.event_values import VALUE_FIELD, values_of
from durable.core.events import HistoryEvent

THRESHOLD = 256 * 1024
"""Characters of JSON from which a value is stored apart (as in Durable Functions)."""

_PREFIX = "@payload:"
_RECORD_FIELDS = ("input", "output", "custom_status")

T = TypeVar("T", HistoryEvent, InstanceRecord)


class PayloadStore(Protocol):
    """Where large values go: a backend, or a transaction that a store has joined."""

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See :meth:`durable.backend.Backend.put_payloads`."""
        ...


class MissingPayloadError(BackendError):
    """History names a large value that the store does not have: the store was damaged or changed by hand."""


async def store_large(backend: Backend, commit: Commit) -> Commit:
    """``commit`` with its large values put into ``backend`` and replaced by references."""
    large: dict[str, bytes] = {}
    events = tuple(_shrunk(event, VALUE_FIELD.get(type(event)), large) for event in commit.checkpoint.events)
    record = commit.record
    for field in _RECORD_FIELDS:
        record = _shrunk(record, field, large)
    if large:
        await backend.put_payloads(commit.checkpoint.instance_id, large)
        commit = replace(commit, checkpoint=replace(commit.checkpoint, events=events), record=record)
    if commit.starts:
        starts = [replace(one, record=await store_large_input(backend, one.record)) for one in commit.starts]
        commit = replace(commit, starts=tuple(starts))
    return commit


async def store_large_input(backend: PayloadStore, record: InstanceRecord) -> InstanceRecord:
    """``record`` with a large input put into ``backend`` and replaced by its reference."""
    large: dict[str, bytes] = {}
    shrunk = _shrunk(record, "input", large)
    if large:
        await backend.put_payloads(record.instance_id, large)
    return shrunk


async def restore_checkpoints(backend: Backend, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """``checkpoints`` of one instance with references replaced by their values.

    Raises:
        MissingPayloadError: the store lacks a value.
    """
    values = values_of(chain.from_iterable([one.events for one in checkpoints]))
    keys = {value for value in values if value.startswith(_PREFIX)}
    if not keys:
        return list(checkpoints)
    found = await _fetch(backend, checkpoints[0].instance_id, keys)
    return [
        replace(c, events=tuple(_grown(event, VALUE_FIELD.get(type(event)), found) for event in c.events))
        for c in checkpoints
    ]


async def restore_record(backend: Backend, record: InstanceRecord) -> InstanceRecord:
    """``record`` with references replaced by their values. Raises MissingPayloadError."""
    keys = {value for f in _RECORD_FIELDS if (value := getattr(record, f)) is not None and value.startswith(_PREFIX)}
    if not keys:
        return record
    values = await _fetch(backend, record.instance_id, keys)
    for field in _RECORD_FIELDS:
        record = _grown(record, field, values)
    return record


async def restore_task(backend: Backend, instance_id: str, scheduled: ev.TaskScheduled) -> ev.TaskScheduled:
    """A scheduled activity with its input in place of its reference. Raises MissingPayloadError."""
    reference = _key(scheduled)
    if reference is None:
        return scheduled
    return replace(scheduled, input=(await _fetch(backend, instance_id, [reference]))[reference])


def stored_form(payload: str) -> str:
    """What the store holds for ``payload`` in a record or an event: the text, or the reference of a large one."""
    if len(payload) <= THRESHOLD:
        return payload
    data = payload.encode()
    return f"{_PREFIX}{sha256(data).hexdigest()}:{len(data)}"


async def _fetch(backend: Backend, instance_id: str, references: Iterable[str]) -> dict[str, str]:
    by_key = {reference.split(":")[1]: reference for reference in references}
    found = await backend.get_payloads(instance_id, list(by_key))
    missing = by_key.keys() - found.keys()
    if missing:
        raise MissingPayloadError(f"instance {instance_id!r}: the store has lost large value(s) {sorted(missing)}")
    return {by_key[key]: data.decode() for key, data in found.items()}


def _key(event: HistoryEvent) -> str | None:
    field = VALUE_FIELD.get(type(event))
    value = getattr(event, field) if field else None
    return value if value is not None and value.startswith(_PREFIX) else None


def _shrunk(holder: T, field: str | None, large: dict[str, bytes]) -> T:
    value = getattr(holder, field) if field else None
    if field is None or value is None or len(value) <= THRESHOLD or value.startswith(_PREFIX):
        return holder
    reference = stored_form(value)
    large[reference.split(":")[1]] = value.encode()
    return _with(holder, field, reference)


def _grown(holder: T, field: str | None, values: dict[str, str]) -> T:
    value = getattr(holder, field) if field else None
    if field is None or value not in values:
        return holder
    return _with(holder, field, values[value])


def _with(holder: T, field: str, value: str) -> T:
    change: dict[str, Any] = {field: value}
    return replace(holder, **change)
