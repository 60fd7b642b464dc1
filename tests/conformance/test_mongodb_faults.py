"""The MongoDB backend when the server refuses, hangs, dies or has no replica set."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
from pymongo import MongoClient

from durable.backend import Backend, BackendError, BackendUnavailable, Commit, CommitOutcome, Hint
from durable.backend_url import create_backend
from durable.testing.conformance.builders import PARTITIONS, Instance, apply, create, inbox_of, new_message, record_of
from tests.mongodb_server import MongoServer, fresh_database, running_server

pytestmark = pytest.mark.mongodb

COMMITTED = CommitOutcome.COMMITTED
DEADLINE = 30.0
Opener = Callable[..., AbstractAsyncContextManager[Backend]]


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    """A server that these tests may kill; each leaves it running."""
    with running_server() as server:
        yield server


@pytest.fixture
def database_url(server: MongoServer) -> Iterator[str]:
    with fresh_database(server.url) as url:
        yield url


@pytest.fixture(params=["motor", "pymongo"])
def opened(request: pytest.FixtureRequest, database_url: str) -> Opener:
    """Opens backends on one database, with options for the URL."""

    @asynccontextmanager
    async def opening(options: str = "", *, url: str = database_url) -> AsyncIterator[Backend]:
        backend = create_backend(f"{url}?driver={request.param}&{options}", "Hub")
        try:
            await backend.open(PARTITIONS)
            yield backend
        finally:
            await backend.close()

    return opening


@pytest.fixture(autouse=True)
def sockets_that_pymongo_forgets() -> Iterator[None]:
    """Collected quietly: a connection attempt that ``client.close()`` cancels leaves its socket to the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def failing(server: MongoServer, commands: list[str], times: int = 1, **how: Any) -> Iterator[None]:
    """The server fails the next of these commands that way."""
    with MongoClient[dict[str, Any]](server.url) as client:
        data = {"failCommands": commands, **how}
        client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


# --- doubt -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        {"errorCode": 11600},
        {"errorCode": 10107},
        {"errorCode": 50},
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ],
    ids=["connection", "shutdown", "stepdown", "slow", "replication"],
)
async def test_a_write_in_doubt_is_repeated_and_done_once(
    server: MongoServer, opened: Opener, how: dict[str, Any]
) -> None:
    # A server that steps down is asked again at the next heartbeat.
    async with opened("retryWrites=false&heartbeatFrequencyMS=500") as backend:
        instance = Instance("a")
        with failing(server, ["insert"], **how), pytest.raises(BackendUnavailable):
            await backend.create_instances([instance.record])
        await create(backend, instance)
        commit = instance.turn(messages=[new_message("m", "a")])
        with failing(server, ["insert"], **how), pytest.raises(BackendUnavailable):
            await backend.commit([commit])
        assert list(await backend.commit([commit])) == [COMMITTED]
        with failing(server, ["insert"], **how), pytest.raises(BackendUnavailable):
            await backend.settle([commit])
        with failing(server, ["update"], **how), pytest.raises(BackendUnavailable):
            await backend.settle([commit])
        await backend.settle([commit])
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]
        assert await record_of(backend, "a") == commit.record
        assert await inbox_of(backend, "a") == ["m"]


async def test_a_write_that_only_breaks_once_is_repeated_by_the_driver(server: MongoServer, opened: Opener) -> None:
    async with opened() as backend:
        instance = Instance("a")
        await create(backend, instance)
        with failing(server, ["insert"], closeConnection=True):
            assert list(await backend.commit([instance.turn()])) == [COMMITTED]


async def test_what_will_not_pass_is_not_called_unavailable(server: MongoServer, opened: Opener) -> None:
    async with opened() as backend:
        with failing(server, ["find"], errorCode=13), pytest.raises(BackendError) as caught:
            await backend.get(["a"])
        assert not isinstance(caught.value, BackendUnavailable)


async def test_no_server_is_unavailable_in_time(server: MongoServer, opened: Opener) -> None:
    nobody = f"mongodb://127.0.0.1:{MongoServer(server.directory).port}/db"
    started = time.monotonic()
    with pytest.raises(BackendUnavailable):
        async with opened("serverSelectionTimeoutMS=300", url=nobody):
            pass
    assert time.monotonic() - started < 10  # 30 s is the default


@pytest.mark.parametrize("option", ["timeoutMS=1500", "socketTimeoutMS=1500"])
async def test_a_frozen_server_is_unavailable_in_time(server: MongoServer, opened: Opener, option: str) -> None:
    async with opened(option) as backend:
        instance = Instance("a")
        await create(backend, instance)
        commit = instance.turn()
        server.pause()
        try:
            started = time.monotonic()
            with pytest.raises(BackendUnavailable):
                await backend.commit([commit])
            assert time.monotonic() - started < 9  # 10 s is the default
        finally:
            server.resume()
        assert await until_answered(backend, commit) is COMMITTED
        assert list(await backend.load("a", "e1")) == [commit.checkpoint]


# --- death -----------------------------------------------------------------------------


async def until_answered(backend: Backend, commit: Commit) -> CommitOutcome:
    """Repeat a commit as it is until the store answers."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                [outcome] = await backend.commit([commit])
            except BackendUnavailable:
                await asyncio.sleep(0.05)
            else:
                return outcome


async def test_kill_9_keeps_what_was_acknowledged(server: MongoServer, opened: Opener) -> None:
    acknowledged: dict[str, list[Commit]] = {f"i{number}": [] for number in range(8)}
    enough = asyncio.Event()

    async def write(backend: Backend, instance: Instance, goal: int) -> None:
        done = acknowledged[instance.instance_id]
        while len(done) < goal:
            commit = instance.turn()
            assert await until_answered(backend, commit) is COMMITTED
            done.append(commit)
            if sum(map(len, acknowledged.values())) > 40:
                enough.set()

    async with opened("serverSelectionTimeoutMS=500") as backend:
        instances = [Instance(instance_id) for instance_id in acknowledged]
        await create(backend, *instances)
        async with asyncio.TaskGroup() as writers:
            for instance in instances:
                writers.create_task(write(backend, instance, 20))
            await enough.wait()
            server.kill()
            before = {instance_id: len(done) for instance_id, done in acknowledged.items()}
            await asyncio.to_thread(server.start)
        assert sum(before.values()) < 20 * len(instances)  # the kill met writers at work
    async with opened() as fresh:
        for instance_id, done in acknowledged.items():
            assert list(await fresh.load(instance_id, "e1")) == [commit.checkpoint for commit in done]


# --- hints -----------------------------------------------------------------------------


async def first(hints: AsyncIterator[Hint], wanted: Callable[[Hint], bool]) -> Hint:
    async with asyncio.timeout(DEADLINE):
        async for hint in hints:
            if wanted(hint):
                return hint
    raise AssertionError("the hints ended")


async def test_hints_name_the_instance(opened: Opener) -> None:
    async with opened() as backend, opened() as other, aclosing(cast("Any", backend.watch())) as hints:
        assert await first(hints, lambda _: True) == Hint(None)  # now it listens
        instance = Instance("a")
        await create(other, instance)
        assert await first(hints, lambda _: True) == Hint("a")
        await apply(other, instance.turn(messages=[new_message("m", "b")]))
        assert [await first(hints, lambda _: True) for _ in range(2)] == [Hint("b", "m"), Hint("a")]


async def test_hints_go_on_after_the_server_died(server: MongoServer, opened: Opener) -> None:
    async with (
        opened("serverSelectionTimeoutMS=500") as backend,
        opened() as other,
        aclosing(cast("Any", backend.watch())) as hints,
    ):
        assert await first(hints, lambda _: True) == Hint(None)
        server.kill()
        try:
            assert await first(hints, lambda _: True) == Hint(None)  # "look for yourself", not an error
        finally:
            await asyncio.to_thread(server.start)
        changing = asyncio.create_task(change_for_ever(other))
        assert (await first(hints, lambda hint: hint.instance_id is not None)).instance_id == "a"
        changing.cancel()
        await asyncio.wait([changing], timeout=DEADLINE)
        assert changing.cancelled()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("passes", range(0, 40, 4))
async def test_no_cancel_is_lost(opened: Opener, passes: int) -> None:
    """Not by the first use of a new client either, which connects; ``passes`` of the event loop come before it.

    A cancelled attempt to connect leaves its socket to the collector: pymongo's own.
    """
    async with opened() as backend:

        async def listen() -> None:
            async for _ in backend.watch():
                pass

        tasks = [asyncio.create_task(listen()), asyncio.create_task(backend.get(["a"] * 1000))]
        for _ in range(passes):
            await asyncio.sleep(0)
        unfinished = {task for task in tasks if not task.done()}
        for task in unfinished:
            task.cancel()
        await asyncio.wait(tasks, timeout=DEADLINE)
        assert all(task.cancelled() for task in unfinished)


async def change_for_ever(backend: Backend) -> None:
    instance = Instance("a")
    await create(backend, instance)
    while True:
        await apply(backend, instance.turn())
        await asyncio.sleep(0.1)


async def test_hints_end_promptly_with_close(server: MongoServer, opened: Opener) -> None:
    async with opened() as backend:
        hints = backend.watch()
        assert await first(hints, lambda _: True) == Hint(None)
        waiting = asyncio.create_task(collect(hints))
        await asyncio.sleep(0)
        started = time.monotonic()
        await backend.close()
        assert await waiting == []
        assert time.monotonic() - started < 5


async def test_a_watcher_that_goes_away_without_a_word_leaves_nothing_open(opened: Opener) -> None:
    async with opened() as backend:
        async for hint in backend.watch():
            assert hint == Hint(None)
            break
        await backend.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert [task for task in others if "_watch" in repr(task)] == []


async def collect(hints: AsyncIterator[Hint]) -> list[Hint]:
    return [hint async for hint in hints]


# --- a server without a replica set ----------------------------------------------------


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_standalone_server_will_do(driver: str) -> None:
    with running_server(standalone=True) as server:
        backend = create_backend(f"{server.url}db?driver={driver}", "Hub")
        await backend.open(PARTITIONS)
        try:
            hints = backend.watch()
            assert await first(hints, lambda _: True) == Hint(None)
            instance = Instance("a")
            await create(backend, instance)
            await apply(backend, commit := instance.turn())
            assert list(await backend.load("a", "e1")) == [commit.checkpoint]
            assert await first(hints, lambda _: True) == Hint(None)
        finally:
            await backend.close()
        assert await collect(hints) == []
