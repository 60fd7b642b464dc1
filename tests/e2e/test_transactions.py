"""Transactions of the user's own: activities, starts and events that commit with what he writes, or not at all."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient

from durable import (
    ActivityContext,
    ActivityFailedError,
    InstanceExistsError,
    InstanceFinishedError,
    InstanceNotFoundError,
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


# --- starts and events in the user's transaction ----------------------------------------------


class Abort(Exception):  # noqa: N818
    """Ends a transaction, and takes back what was done in it."""


async def in_transaction(client: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run ``work`` as the driver's documentation says; both drivers' ways to get a session."""
    opening = client.start_session()
    async with await opening if inspect.isawaitable(opening) else opening as session:
        return await session.with_transaction(work)


def order_hub(url: str) -> TaskHub:
    hub = TaskHub(url)

    @hub.orchestrator
    async def order(ctx: OrchestrationContext, item: str) -> list[str]:
        return [item, await ctx.wait_for_external_event("paid", str)]

    return hub


async def test_a_start_and_an_event_commit_with_what_the_user_writes(url: str, client: Any) -> None:
    hub = order_hub(url)
    large = "x" * 300_000

    async def place(session: Any) -> None:
        await accounts(client, url).insert_one({"_id": "order-1"}, session=session)
        await hub.start("order", large, instance_id="order-1", session=session, tags={"kind": "large"})

    async def pay(session: Any) -> None:
        await accounts(client, url).update_one({"_id": "order-1"}, {"$set": {"paid": True}}, session=session)
        await hub.get("order-1").raise_event("paid", "ann", session=session, idempotency_key="k")

    async with hub.worker():
        await in_transaction(client, place)
        await in_transaction(client, pay)
        await in_transaction(client, pay)  # by the same key: once
        assert await hub.get("order-1").result(DEADLINE) == [large, "ann"]
        with pytest.raises(InstanceFinishedError):
            await in_transaction(client, pay)
    assert await accounts(client, url).find_one() == {"_id": "order-1", "paid": True}


async def test_an_event_is_refused_when_its_instance_ended_while_the_transaction_ran(url: str, client: Any) -> None:
    hub, looking = order_hub(url), TaskHub(url)  # the one sees what its worker knows, the other what is stored

    async def pay_late(session: Any) -> None:
        await accounts(client, url).insert_one({"_id": "order-1"}, session=session)  # it sees what is there now
        await hub.get("order-1").raise_event("paid", "ann")
        assert await looking.get("order-1").result(DEADLINE) == ["cup", "ann"]
        await hub.get("order-1").raise_event("paid", "bob", session=session)

    async with hub.worker(), looking:
        await hub.start("order", "cup", instance_id="order-1")
        with pytest.raises(InstanceFinishedError):
            await in_transaction(client, pay_late)
    assert await accounts(client, url).find_one() is None


async def test_a_start_and_an_event_vanish_with_what_the_user_writes(url: str, client: Any) -> None:
    hub = order_hub(url)

    async def fail_to_place(session: Any) -> None:
        await accounts(client, url).insert_one({"_id": "order-1"}, session=session)
        handle = await hub.start("order", "cup", instance_id="order-1", session=session)
        await handle.raise_event("paid", "early", session=session)
        raise Abort

    async def fail_to_pay(session: Any) -> None:
        await hub.get("order-2").raise_event("paid", "not at all", session=session)
        raise Abort

    async with hub.worker():
        with pytest.raises(Abort):
            await in_transaction(client, fail_to_place)
        with pytest.raises(InstanceNotFoundError):
            await hub.get("order-1").status()
        second = await hub.start("order", "mug", instance_id="order-2")
        with pytest.raises(Abort):
            await in_transaction(client, fail_to_pay)
        await second.raise_event("paid", "bob")
        assert await second.result(DEADLINE) == ["mug", "bob"]
    assert await accounts(client, url).find_one() is None


async def test_of_two_transactions_that_start_the_same_id_one_does(url: str, client: Any) -> None:
    hub = order_hub(url)
    outcomes = Counter[str]()

    async def place(name: str) -> None:
        async def work(session: Any) -> None:
            await hub.start("order", name, instance_id="one", session=session)
            await asyncio.sleep(0.05)  # both are under way

        try:
            await in_transaction(client, work)
        except InstanceExistsError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["started"] += 1

    async def find(session: Any) -> str:
        return (
            await hub.start("order", "third", instance_id="one", session=session, on_conflict="use_existing")
        ).instance_id

    async with hub.worker():
        await asyncio.gather(place("first"), place("second"))
        assert outcomes == {"started": 1, "InstanceExistsError": 1}
        assert await in_transaction(client, find) == "one"
        await hub.get("one").raise_event("paid", "x")
        assert (await hub.get("one").result(DEADLINE))[0] in ("first", "second")


async def test_a_session_that_cannot_be_used_is_refused(url: str, client: Any, mongodb_url: str) -> None:
    hub = order_hub(url)
    plain = url.removesuffix("?driver=pymongo")
    async with hub:
        opening = client.start_session()
        async with await opening if inspect.isawaitable(opening) else opening as session:
            with pytest.raises(ValueError, match="not in a transaction"):
                await hub.start("order", "cup", session=session)
        with pytest.raises(TypeError, match="not object"):
            await hub.start("order", "cup", session=object())
        with (
            MongoClient[Any](plain) as blocking,
            blocking.start_session() as session,
            pytest.raises(TypeError, match="blocking client"),
        ):
            await hub.start("order", "cup", session=session)

        async def replace(session: Any) -> None:
            await hub.start("order", "cup", instance_id="x", session=session, on_conflict="replace_finished")

        with pytest.raises(ValueError, match="replace_finished"):
            await in_transaction(client, replace)
        assert [status async for status in hub.query()] == []


async def test_a_session_is_refused_by_a_store_without_transactions(tmp_path: Any) -> None:
    hub = order_hub(f"sqlite:///{tmp_path / 'x.db'}")
    async with hub:
        with pytest.raises(TransactionsNotSupportedError, match=r"start\(session=\) needs a store with transactions"):
            await hub.start("order", "cup", session=object())


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
