"""Transactions of the user's own: transactional activities write, and complete, exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from durable import (
    ActivityContext,
    ActivityFailedError,
    OrchestrationContext,
    RegistrationError,
    Registry,
    RetryPolicy,
    TaskHub,
    TransactionsNotSupportedError,
)
from tests.e2e.waiting import until

DEADLINE = 30
BANK = "bank"


@pytest.fixture(params=["motor", "pymongo"])
def url(request: pytest.FixtureRequest, mongodb_database_url: str) -> str:
    """A hub by either driver."""
    return f"{mongodb_database_url}?driver=pymongo" if request.param == "pymongo" else mongodb_database_url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    """The user's own client on the same server."""
    plain = url.removesuffix("?driver=pymongo")
    mine: Any = AsyncMongoClient(plain) if plain != url else AsyncIOMotorClient(plain)
    yield mine
    closing = mine.close()
    if closing is not None:
        await closing


pytestmark = pytest.mark.mongodb


def accounts(source: Any, url: str) -> Any:
    """The user's collection, in the hub's database, reached through a client."""
    return source[url.rpartition("/")[2].partition("?")[0]][BANK]


async def test_what_a_transactional_activity_writes_commits_with_its_result(url: str, client: Any) -> None:
    hub = TaskHub(url)

    @hub.activity(transactional=True)
    async def credit(owner: str, amount: int) -> int:
        session = ActivityContext.current().session
        mine = accounts(session.client, url)
        await mine.update_one({"_id": owner}, {"$inc": {"balance": amount}}, upsert=True, session=session)
        found = await mine.find_one({"_id": owner}, session=session)
        return int(found["balance"])

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> list[int]:
        return [await credit("ann", 5), *await asyncio.gather(credit("bob", 1), credit("cleo", 2))]

    async with hub.worker():
        handle = await hub.start(main)
        assert await handle.result(DEADLINE) == [5, 1, 2]
    assert await accounts(client, url).find_one({"_id": "ann"}) == {"_id": "ann", "balance": 5}


async def test_a_transactional_activity_that_fails_leaves_nothing(url: str, client: Any) -> None:
    hub = TaskHub(url)
    attempts = Counter[str]()

    @hub.activity(transactional=True, retry=RetryPolicy(max_attempts=3, first_interval=timedelta(milliseconds=10)))
    async def credit(owner: str) -> int:
        session = ActivityContext.current().session
        await accounts(session.client, url).insert_one({"owner": owner}, session=session)
        attempts[owner] += 1
        if owner == "never" or attempts[owner] < 3:
            raise LookupError(owner)
        return attempts[owner]

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> list[Any]:
        try:
            return [await credit("third time"), await credit("never")]
        except ActivityFailedError as error:
            return [error.details.error_type]

    async with hub.worker():
        assert await (await hub.start(main)).result(DEADLINE) == ["builtins.LookupError"]
    assert attempts == {"third time": 3, "never": 3}
    assert [found["owner"] async for found in accounts(client, url).find()] == ["third time"]


def counting(deliveries: list[str], url: str, before: dict[int, asyncio.Event]) -> Registry:
    """One activity that counts its deliveries, and writes that it was there; some wait for an event first."""
    registry = Registry()

    @registry.activity(transactional=True)
    async def credit() -> int:
        context = ActivityContext.current()
        deliveries.append(context.name)
        number = len(deliveries)
        if number in before:
            await before[number].wait()
        await accounts(context.session.client, url).insert_one({"by": number}, session=context.session)
        return number

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        return await credit()

    return registry


async def take_over(taker: TaskHub, url: str, client: Any) -> None:
    """Give all partitions to a worker, whoever has them."""
    assert taker._worker is not None
    partitions = client[url.rpartition("/")[2].partition("?")[0]]["default.partitions"]
    await partitions.update_many({}, {"$set": {"owner": taker._worker.worker_id}})


async def test_a_delivery_that_lags_behind_changes_nothing(url: str, client: Any) -> None:
    """Its worker lost the instance, and does not know it yet: another has run the activity meanwhile."""
    deliveries: list[str] = []
    lagging = asyncio.Event()
    registry = counting(deliveries, url, {1: lagging})
    first, second = TaskHub(url), TaskHub(url)
    first.include(registry)
    second.include(registry)
    async with first.worker(lease_time=60.0):
        handle = await first.start("main", instance_id="one")
        await until(lambda: len(deliveries), lambda count: count == 1)
        async with second.worker(lease_time=1.0):
            await take_over(second, url, client)
            assert await second.get("one").result(DEADLINE) == 2
            lagging.set()
            assert await handle.result(DEADLINE) == 2
    assert [found["by"] async for found in accounts(client, url).find()] == [2]


async def test_a_worker_that_dies_when_its_transaction_is_committed_had_it_done(url: str, client: Any) -> None:
    deliveries: list[str] = []
    registry = counting(deliveries, url, {})
    died = asyncio.Event()
    first, second = TaskHub(url), TaskHub(url)
    first.include(registry)
    second.include(registry)
    async with first.worker(lease_time=60.0):
        worker = first._worker
        assert worker is not None
        worker._transactions._post = lambda message: died.set()
        worker.hint = lambda hint: None  # type: ignore[method-assign]
        await first.start("main", instance_id="one")
        await asyncio.wait_for(died.wait(), DEADLINE)
        await worker.abandon()
        async with second.worker(lease_time=1.0):
            await take_over(second, url, client)
            assert await second.get("one").result(DEADLINE) == 1
    assert len(deliveries) == 1
    assert [found["by"] async for found in accounts(client, url).find()] == [1]


@pytest.mark.parametrize("other", ["memory://none", "sqlite"])
async def test_a_store_without_transactions_says_so(other: str, tmp_path: Any) -> None:
    hub = TaskHub(f"sqlite:///{tmp_path / 'x.db'}" if other == "sqlite" else other)

    @hub.activity(transactional=True)
    async def credit() -> None: ...

    with pytest.raises(TransactionsNotSupportedError, match="'credit' needs a store with transactions"):
        async with hub.worker():
            pass


def test_a_transactional_activity_must_be_async() -> None:
    with pytest.raises(RegistrationError, match="'credit' must be an `async def`"):

        @Registry().activity(transactional=True)
        def credit() -> None: ...
