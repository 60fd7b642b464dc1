"""Restarting: a new instance that is given what a former one was given.

Rule of this file: what was started is in the record; no definition has to be known here.
"""

from __future__ import annotations

from dataclasses import replace

from durable.client import Client
from durable.core.errors import InstanceExistsError, InstanceNotFinishedError
from durable.core.ids import is_entity
from durable.starting import RESERVED_TAGS, put


async def restart(client: Client, instance_id: str, *, new_id: bool, as_id: str | None) -> str:
    """Start an instance again and return the id; see ``InstanceHandle.restart``."""
    if is_entity(instance_id):
        raise ValueError(f"{instance_id!r} is an entity; only orchestrations can be restarted")
    if not new_id and as_id is not None:
        raise ValueError(f"instance_id={as_id!r} is for a restart under a new id; leave it out or new_id=False")
    former = await client.record(instance_id)
    if not new_id and not former.status.is_terminal:
        raise InstanceNotFinishedError(instance_id, former.status.value)
    record = client.new_record(
        former.name,
        former.input,
        instance_id=as_id if new_id else instance_id,
        version=former.version,
        tags={name: text for name, text in (former.tags or {}).items() if not name.startswith(RESERVED_TAGS)},
    )
    record = replace(record, version=former.version)  # none, if it had none
    try:
        await put(client, record, "raise" if new_id else "replace_finished")
    except InstanceExistsError as error:
        if new_id:
            raise
        raise InstanceNotFinishedError(error.instance_id, error.status) from error
    return record.instance_id
