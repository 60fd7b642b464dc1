"""Reading: records and inboxes of the instances that are loaded at once, in as few questions as there can be.

Rule of this file: a long inbox keeps nobody waiting; where there is one among many, each is read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from durable.backend import Backend, InstanceRecord, Message
from durable.gathering import Gathering
from durable.worker.mailboxes import page_for

_MOST = 20_000  # messages of several inboxes together


class Reader:
    """Asks the store for the parts of many instances. Each call is for one, and raises what the backend raises."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.record: Gathering[str, InstanceRecord | None] = Gathering(backend.get)
        self.inbox: Gathering[str, Sequence[Message]] = Gathering(self._inboxes)
        """The beginning of an inbox: ``page_for(None)`` messages at most."""

    async def _inboxes(self, instance_ids: Sequence[str]) -> Sequence[Sequence[Message]]:
        limit = page_for(None)
        if len(instance_ids) > 1:
            together = await self._backend.receive(instance_ids, _MOST)
            if len(together) < _MOST:
                inboxes: dict[str, list[Message]] = {instance_id: [] for instance_id in instance_ids}
                for message in together:
                    inboxes[message.instance_id].append(message)
                return [inboxes[instance_id][:limit] for instance_id in instance_ids]
        return [await self._backend.receive([instance_id], limit) for instance_id in instance_ids]
