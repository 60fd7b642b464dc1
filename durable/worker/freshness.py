"""Freshness: copies in memory that a former owner's late commit has left behind.

Rule of this file: most such copies find out by themselves, at their next commit or by an answer to what they have not
asked. One that waits for what history has taken in already does neither, as a locked entity whose unlocking was
committed elsewhere. Its record tells: the store says that there is something to do, and nothing is done.
"""

from __future__ import annotations

import asyncio
from functools import partial

from durable.backend import Backend, InstanceRecord
from durable.core.ids import same_start
from durable.worker.instances import Instances
from durable.worker.live import LiveInstance
from durable.worker.patience import Patience

INTERVAL = 30.0
"""Seconds between two looks. A copy that has moved since it was doubted is not looked at."""

_BATCH = 500


class Freshness:
    """Compares instances that are at rest, though the store says that they have something to do, with their records."""

    def __init__(self, backend: Backend, patience: Patience, instances: Instances) -> None:
        self._backend = backend
        self._patience = patience
        self._instances = instances
        self._doubted: dict[str, int] = {}

    def doubt(self, instance: LiveInstance) -> None:
        """Look at this instance, which rests, if it has committed nothing more when the time has come."""
        self._doubted.setdefault(instance.instance_id, instance.rev)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            doubted, self._doubted = self._doubted, {}
            unmoved = [instance_id for instance_id, rev in doubted.items() if self._unmoved(instance_id, rev)]
            for first in range(0, len(unmoved), _BATCH):
                batch = unmoved[first : first + _BATCH]
                records = await self._patience.insist(partial(self._backend.get, batch))
                for instance_id, record in zip(batch, records, strict=True):
                    self._compare(instance_id, doubted[instance_id], record)

    def _unmoved(self, instance_id: str, rev: int) -> LiveInstance | None:
        instance = self._instances.get(instance_id)
        return instance if instance is not None and instance.rev == rev else None

    def _compare(self, instance_id: str, rev: int, record: InstanceRecord | None) -> None:
        instance = self._unmoved(instance_id, rev)
        if instance is None:
            return
        # Settling lags, so a record that shows less is no sign.
        mine = instance.record.execution_id
        if record is None or record.rev > rev or not same_start(record.execution_id, mine):
            self._instances.overtaken(instance)
