"""Starting instances: what is written for one, and what becomes of another one that has its id.

Rule of this file: whoever loses a race sees what the winner started. An instance that replaces another of its id counts
its checkpoints on from there, so that nothing that is still written for the former one can reach its record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from durable.backend import InstanceRecord
from durable.client import Client
from durable.clock import from_datetime
from durable.core.errors import InstanceExistsError, InstanceFinishedError, InstanceHeldError, InstanceNotFoundError
from durable.core.events import ExecutionTerminated
from durable.core.ids import same_start
from durable.debouncing import can_be_pushed_back, push_back
from durable.definitions import Orchestrator, encode_untyped
from durable.joining import create_in

OnConflict: TypeAlias = Literal["raise", "use_existing", "replace_finished", "terminate_existing"]
"""What becomes of a start whose instance id is in use."""

RESERVED_TAGS = "durable."
"""How the names of tags begin that the library keeps for itself."""

_Create: TypeAlias = Callable[[Client, InstanceRecord, OnConflict], Awaitable[None]]
_ON_CONFLICT = get_args(OnConflict)
_LOOK = 0.25
_RETRY = 0.05
_MICROSECOND = timedelta(microseconds=1)
_REPLACED = '"replaced by another start"'


async def start(
    client: Client,
    orchestrator: Orchestrator[..., Any] | str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    instance_id: str | None,
    start_at: datetime | None,
    version: str | None,
    tags: Mapping[str, str] | None,
    on_conflict: OnConflict,
    session: Any = None,
    debounce: timedelta | None = None,
    debounce_limit: timedelta | None = None,
) -> str:
    """Create an instance and return its id; see ``TaskHub.start``."""
    if on_conflict not in _ON_CONFLICT:
        raise ValueError(f"on_conflict must be one of {', '.join(_ON_CONFLICT)}; not {on_conflict!r}")
    _check_debounce(instance_id, start_at, session, debounce, debounce_limit)
    name = orchestrator if isinstance(orchestrator, str) else orchestrator.name
    record = client.new_record(
        name,
        _encoded(client, name, args, kwargs),
        instance_id=instance_id,
        version=version,
        tags=_checked_tags(tags),
        start_at=None if start_at is None else from_datetime(start_at),
    )
    create: _Create = put if session is None else partial(create_in, session=session)
    if debounce is not None:
        record = replace(record, due_at=record.created_at + debounce // _MICROSECOND)
        create = partial(_put_debounced, debounce_limit=debounce_limit)
    if client.instrument is None:
        await create(client, record, on_conflict)
    else:
        with client.instrument.starting(record) as traced:
            await create(client, traced, on_conflict)
    return record.instance_id


async def _put_debounced(
    client: Client, record: InstanceRecord, on_conflict: OnConflict, debounce_limit: timedelta | None
) -> None:
    """Push back the instance of that id as long as it has not begun; else as any start. Raises InstanceExistsError."""
    limit = None if debounce_limit is None else debounce_limit // _MICROSECOND
    loop = asyncio.get_running_loop()
    deadline = loop.time() + client.settings.start_timeout
    while True:
        (waiting,) = await client.insist(lambda: client.backend.get([record.instance_id]))
        if waiting is None or not can_be_pushed_back(waiting, record):
            try:
                await put(client, record, "raise" if waiting is None else on_conflict)
                return
            except InstanceExistsError:
                (waiting,) = await client.insist(lambda: client.backend.get([record.instance_id]))
                if waiting is not None and not can_be_pushed_back(waiting, record):
                    raise
        elif await push_back(client, waiting, record, limit):
            return
        elif loop.time() > deadline:
            raise InstanceExistsError(waiting.instance_id, waiting.status.value)
        await asyncio.sleep(_RETRY)  # another one was first, and the record is to show it


def _check_debounce(
    instance_id: str | None,
    start_at: datetime | None,
    session: Any,
    debounce: timedelta | None,
    debounce_limit: timedelta | None,
) -> None:
    if debounce is None:
        if debounce_limit is not None:
            raise ValueError("debounce_limit needs debounce")
        return
    if instance_id is None:
        raise ValueError("debounce needs an instance_id: it is what later starts are known by")
    if start_at is not None:
        raise ValueError("debounce and start_at contradict each other: both say when the instance begins")
    if session is not None:
        raise ValueError("debounce and session contradict each other: what a start replaces is in no transaction")
    for name, duration in (("debounce", debounce), ("debounce_limit", debounce_limit)):
        if duration is not None and duration <= timedelta(0):
            raise ValueError(f"{name} must be longer than zero, not {duration}")


async def put(client: Client, record: InstanceRecord, on_conflict: OnConflict) -> None:
    """Create the instance of a record, or make way for it as ``on_conflict`` says. Raises InstanceExistsError."""
    existing = await client.create(record)
    if existing is not None:
        await _put_in_place_of(existing, client, record, on_conflict)


async def _put_in_place_of(
    holder: InstanceRecord, client: Client, record: InstanceRecord, on_conflict: OnConflict
) -> None:
    """Create the instance of a record whose id ``holder`` has. Raises InstanceExistsError, InstanceHeldError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + client.settings.start_timeout
    existing: InstanceRecord | None = holder
    while existing is not None:
        if on_conflict == "use_existing":
            return
        if on_conflict == "raise":
            raise InstanceExistsError(existing.instance_id, existing.status.value)
        if existing.hold is not None:
            raise InstanceHeldError(existing.instance_id, existing.hold)
        try:
            existing = await client.record(existing.instance_id)
            if on_conflict == "terminate_existing" and not existing.status.is_terminal:
                existing = await _ended(client, existing, deadline)
        except InstanceNotFoundError:
            pass  # somebody else has made way
        else:
            if not existing.status.is_terminal or loop.time() > deadline:
                raise InstanceExistsError(existing.instance_id, existing.status.value)
            await client.forget(existing.instance_id)
            record = replace(record, rev=max(record.rev, existing.rev + 1))
        existing = await client.create(record)


async def _ended(client: Client, existing: InstanceRecord, deadline: float) -> InstanceRecord:
    """Terminate an instance with its children, and return its record as soon as it has ended, or at the deadline.

    Raises InstanceNotFoundError when it is gone by then.
    """
    instance_id = existing.instance_id
    with suppress(InstanceFinishedError):
        await client.send(
            instance_id,
            lambda now, id_: ExecutionTerminated(now, _REPLACED, True, id_),
            execution_id=existing.execution_id,
        )
    while not existing.status.is_terminal and asyncio.get_running_loop().time() < deadline:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await client.waiters.wait(instance_id)
        found = await client.record(instance_id)
        if not same_start(found.execution_id, existing.execution_id):
            raise InstanceNotFoundError(f"instance {instance_id!r} was replaced by another start")
        existing = found
    return existing


def _encoded(client: Client, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments as JSON, by the orchestrator's annotations where it is known here."""
    registry = client.registry
    definition = registry.orchestrators.get(name)
    if definition is not None:
        return definition.encode_arguments(args, kwargs)
    if registry.has_orchestrators:
        registry.find_orchestrator(name)  # raises, listing near names
    return encode_untyped(args, kwargs, f"orchestrator {name!r}")


def _checked_tags(tags: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if not tags:
        return None
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str) or not key:
            raise ValueError(f"tags must map non-empty text to text; got {key!r}: {value!r}")
        if key.startswith(RESERVED_TAGS):
            raise ValueError(f"tag {key!r}: names that begin with {RESERVED_TAGS!r} are kept for the library")
    return dict(tags)
