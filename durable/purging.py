"""Purging: deleting an instance that has ended, and the tree of sub-orchestrations below it.

Rule of this file: from the leaves up. The history of a parent leads to its children, so it goes after them: what a
crash interrupts can be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from durable.backend import InstanceRecord
from durable.client import Client
from durable.core.errors import InstanceHeldError, InstanceNotFinishedError
from durable.core.events import SubOrchestrationInstanceCreated
from durable.core.ids import earlier_execution_id

_SHOWN, _LOOK = 1.0, 0.05  # seconds in which the store shows what has been committed
_BATCH = 500


async def purge(client: Client, instance_id: str, *, recursive: bool) -> int:
    """Delete an instance that has ended; see ``InstanceHandle.purge``."""
    record = await client.record(instance_id)
    if not record.status.is_terminal:
        raise InstanceNotFinishedError(instance_id, record.status.value)
    stored = (await client.insist(lambda: client.backend.get([instance_id])))[0]
    if stored is not None and stored.hold is not None:
        raise InstanceHeldError(instance_id, stored.hold)
    deadline = asyncio.get_running_loop().time() + _SHOWN
    levels = [[record]]
    while recursive and levels[-1]:
        levels.append([child for parent in levels[-1] for child in await _children(client, parent, deadline)])
    gone = 0
    for level in reversed(levels):
        for start in range(0, len(level), _BATCH):
            gone += await _purge(client, [one.instance_id for one in level[start : start + _BATCH]], deadline)
    return gone


async def _purge(client: Client, instance_ids: list[str], deadline: float) -> int:
    """Purge instances of which it is known that they have ended, as soon as the store shows it."""
    gone = 0
    while True:
        gone += await client.insist(lambda: client.backend.purge(instance_ids))
        if gone >= len(instance_ids) or not await _wait(deadline):
            return gone


async def _children(client: Client, parent: InstanceRecord, deadline: float) -> list[InstanceRecord]:
    """The children of an instance that have ended. One that ends with its parent is given a moment to do so.

    A stranger that has the id of a child is none.
    """
    calls = [call async for call in _calls(client, parent)]
    found: list[InstanceRecord] = []
    for start in range(0, len(calls), _BATCH):
        asked = calls[start : start + _BATCH]
        while asked:
            children = await client.insist(partial(client.backend.get, [call.instance_id for _, call in asked]))
            running = []
            for (execution_id, call), child in zip(asked, children, strict=True):
                if child is None or child.parent is None:
                    continue
                if (child.parent.instance_id, child.parent.execution_id) != (parent.instance_id, execution_id):
                    continue
                if child.status.is_terminal:
                    found.append(child)
                elif call.parent_close != "abandon":
                    running.append((execution_id, call))
            asked = running if running and await _wait(deadline) else []
    return found


async def _calls(client: Client, parent: InstanceRecord) -> AsyncIterator[tuple[str, SubOrchestrationInstanceCreated]]:
    """The calls of sub-orchestrations, with the execution that made each, as far back as histories are kept."""
    execution_id: str | None = parent.execution_id
    back = 0
    while execution_id is not None:
        seq = 0
        while page := await client.insist(partial(client.backend.load, parent.instance_id, execution_id, from_seq=seq)):
            for event in (event for checkpoint in page for event in checkpoint.events):
                if isinstance(event, SubOrchestrationInstanceCreated) and not event.detached:
                    yield execution_id, event
            seq = page[-1].seq + 1
        back += 1
        if not seq and back > 1:
            return
        execution_id = earlier_execution_id(parent.execution_id, back)


async def _wait(deadline: float) -> bool:
    """Wait a little; False when the deadline has passed."""
    if asyncio.get_running_loop().time() >= deadline:
        return False
    await asyncio.sleep(_LOOK)
    return True
