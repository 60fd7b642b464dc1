"""Purging instances, and keeping them from it.

Rule of this file: one update of the record decides. It marks what is to go, unless that is held; from then on the
instance is not there for anybody, and cannot be held or changed any more. What belongs to it goes next, the record
last. A crash in between leaves the mark, which ``expired`` finds: it comes with a ``purge_at`` of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from durable_mongodb._documents import TERMINAL
from durable_mongodb._driver import Document
from durable_mongodb._hub import Hub
from durable_mongodb._indexes import BY_ID, HISTORY_ORDER, INBOX_INSTANCE, IS_WHOLE, PAYLOADS_KEY

_MARK = {"$set": {"purging": True, "purge_at": 0}}


async def purge(hub: Hub, instance_ids: Sequence[str]) -> int:
    """See :meth:`durable.backend.Backend.purge`.

    History goes by execution: a delete that the server applies late must not meet a new instance of the same id.
    """
    among = {"$in": list(instance_ids)}
    grouped: list[Document] = [{"$match": {"instance_id": among}}, {"$group": {"_id": "$execution_id"}}]
    executions = [group["_id"] for group in await hub.history.aggregate(grouped, index=HISTORY_ORDER)]
    free: Document = {"_id": among, "status": {"$in": TERMINAL}, "hold": None}
    await hub.instances.update(free, _MARK, index=BY_ID)
    marked: Document = {"_id": among, "purging": True}
    going = await hub.instances.find(marked, fields=["execution_id"], index=BY_ID)
    if not going:
        return 0
    of_these = {"instance_id": {"$in": [document["_id"] for document in going]}}
    await hub.history.delete(of_these | {"execution_id": {"$in": executions}}, index=HISTORY_ORDER)
    await hub.inbox.delete(of_these, index=INBOX_INSTANCE)
    await hub.payloads.delete(of_these, index=PAYLOADS_KEY)
    same = {"execution_id": {"$in": [document["execution_id"] for document in going]}}
    return await hub.instances.delete(marked | {"_id": of_these["instance_id"]} | same, index=BY_ID)


async def set_hold(hub: Hub, instance_id: str, reason: str | None) -> bool:
    """See :meth:`durable.backend.Backend.set_hold`."""
    where: Document = {"_id": {"$eq": instance_id}} | IS_WHOLE
    return await hub.instances.update(where, {"$set": {"hold": reason}}, index=BY_ID) == 1
