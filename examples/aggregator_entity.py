"""Aggregator: events from many senders, over any length of time, collected under one key each.

python examples/aggregator_entity.py

What survives a crash: every reading that was acknowledged, applied once, in the order in which it came. The entity's
state is committed together with the operation, so no reading is counted twice and none is lost.
"""

import asyncio
import os
import sys
from dataclasses import dataclass, field

from durable import EntityContext, EntityId, OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///aggregator_entity.db"))

HOT = 30.0


@hub.orchestrator
async def raise_alarm(ctx: OrchestrationContext, station: str, celsius: float) -> str:
    return f"{station} is hot: {celsius:g} degrees"


@hub.entity
@dataclass
class Station:
    """What is known of one weather station."""

    count: int = 0
    highest: float | None = None
    alarms: list[str] = field(default_factory=list)

    def record(self, celsius: float) -> None:
        """Take a reading in; above HOT, start an orchestration to deal with it."""
        self.count += 1
        if self.highest is None or celsius > self.highest:
            self.highest = celsius
        if celsius > HOT:
            context = EntityContext.current()
            self.alarms.append(context.start_orchestration(raise_alarm, context.entity_id.key, celsius))

    def read(self) -> "Station":
        """All of it. It comes back typed, as every value does."""
        return self


@hub.orchestrator
async def compare(ctx: OrchestrationContext, names: list[str]) -> list[Station]:
    """Ask several entities at once; each answers when it has dealt with what came before."""
    return await asyncio.gather(*[ctx.call_entity(Station.read, name) for name in names])


async def main() -> int:
    stations = {"harbour": [17.5, 21.0, 19.25], "desert": [28.0, 41.5, 39.0, 12.0]}
    async with hub.worker():
        for name in stations:
            await hub.signal_entity(EntityId("station", name), "delete")  # this file may have been used before
        readings = [(name, celsius) for name, values in stations.items() for celsius in values]
        await asyncio.gather(*[hub.signal_entity(Station.record, name, celsius) for name, celsius in readings])
        found = await (await hub.start(compare, list(stations))).result(30)
        for name, station in zip(stations, found, strict=True):
            print(f"  {name}: {station.count} readings, at most {station.highest}", flush=True)
        alarms = [await hub.get(alarm).result(30) for station in found for alarm in station.alarms]
        for text in alarms:
            print(f"  ALARM: {text}", flush=True)
    right = [(station.count, station.highest) for station in found] == [(3, 21.0), (4, 41.5)]
    return 0 if right and len(alarms) == 2 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
