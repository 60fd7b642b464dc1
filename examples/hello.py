"""Three activities, one after the other. What each returned is in ``hello.db`` before the next one starts.

python examples/hello.py
"""

import asyncio

from durable import OrchestrationContext, TaskHub

hub = TaskHub("sqlite:///hello.db")  # or "mongodb://localhost:27017/?replicaSet=rs0"


@hub.activity
async def say_hello(city: str) -> str:
    return f"Hello {city}!"


@hub.orchestrator
async def hello_sequence(ctx: OrchestrationContext, cities: list[str]) -> list[str]:
    return [await say_hello(city) for city in cities]


async def main() -> None:
    async with hub.worker():  # runs instances in this process
        handle = await hub.start(hello_sequence, ["Tokyo", "Seattle", "London"])
        print(await handle.result())  # ['Hello Tokyo!', 'Hello Seattle!', 'Hello London!']


if __name__ == "__main__":
    asyncio.run(main())
