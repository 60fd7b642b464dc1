"""Entities, seen from a client: signals, calls, states."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durable.backend import InstanceRecord, Query
from durable.client import Client
from durable.clock import from_datetime, to_datetime
from durable.core.context import OrchestrationContext, operation_of
from durable.core.errors import InstanceNotFoundError, PayloadError
from durable.core.events import EntityOperationSignaled
from durable.core.ids import EntityId, check_entity_name
from durable.payloads import decode
from durable.registry import Registry

CALL = "BuiltIn::CallEntity"
"""The orchestrator by which a client calls an entity: it waits where a client may go away."""


@dataclass(frozen=True, slots=True)
class EntityState:
    """An entity as its record shows it. ``state`` is typed by the entity's class where that is known, else plain JSON;
    None when the entity has none (any more). When it does not fit the class any more it is plain JSON, too, and
    ``problem`` says why.
    """

    entity_id: EntityId
    state: Any
    last_operation_at: datetime
    problem: str | None = None


async def call_entity(ctx: OrchestrationContext, entity: str, operation: str, arguments: Any) -> Any:
    """The orchestrator named ``CALL``."""
    args, kwargs = (arguments["args"], arguments["kwargs"]) if isinstance(arguments, dict) else (arguments, {})
    return await ctx.call_entity(EntityId.parse(entity), operation, *args, **kwargs)


class EntityClient:
    """Signals, reads and lists the entities of one task hub."""

    def __init__(self, client: Client, registry: Registry) -> None:
        self._client = client
        self._registry = registry

    def encoded(
        self, entity: Any, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[EntityId, str, str]:
        """The entity, the operation and the arguments of a call; see ``TaskHub.signal_entity``."""
        entity_id, operation = operation_of(entity, key)
        payload = self._registry.operation_target(entity_id.name, operation).encode_arguments(args, kwargs)
        return entity_id, operation, payload

    async def signal(
        self, entity: Any, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], signal_time: datetime | None
    ) -> None:
        """Have an entity do an operation; see ``TaskHub.signal_entity``."""
        entity_id, operation, payload = self.encoded(entity, key, args, kwargs)
        scheduled = None if signal_time is None else from_datetime(signal_time)
        await self._client.send(
            str(entity_id),
            lambda now, id_: EntityOperationSignaled(now, 0, str(entity_id), operation, payload, scheduled, id_),
        )

    async def read(self, entity_id: EntityId) -> EntityState | None:
        """The entity's committed state; None when it has none."""
        try:
            found = self._state_of(await self._client.record(str(entity_id)))
        except InstanceNotFoundError:
            return None
        return None if found.state is None else found

    async def list(self, name: str | None, page_size: int) -> AsyncIterator[EntityState]:
        """The entities that have a state; see ``TaskHub.query_entities``."""
        prefix = None if name is None else f"@{check_entity_name(name)}@"
        async for page in self._client.pages(Query(id_prefix=prefix, entities=True, page_size=page_size)):
            for listed in page.records:
                record = await self._client.whole(listed)
                if record is not None and record.output is not None:
                    yield self._state_of(record)

    def _state_of(self, record: InstanceRecord) -> EntityState:
        entity_id = EntityId.parse(record.instance_id)
        definition = self._registry.entities.get(entity_id.name)
        state, problem = None, None
        if record.output is not None:
            state = decode(record.output)
            if definition is not None:
                try:
                    state = definition.decode_state(record.output)
                except PayloadError as error:
                    problem = str(error)
        return EntityState(entity_id, state, to_datetime(record.updated_at), problem)
