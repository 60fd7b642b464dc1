"""What the storage port does not show of the MongoDB backend: its commands, documents, plans, URL and drivers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.uri_parser import parse_uri

from durable.backend import Annotation, Backend, CommitOutcome, Query, create_backend
from durable.core.errors import UnsupportedHistoryError
from durable.core.events import ExecutionStarted, TaskCompleted
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    LATE,
    PARTITIONS,
    T0,
    Instance,
    apply,
    big_events,
    create,
    new_message,
    new_worker,
    query_all,
    rival_of,
)
from durable_mongodb import MongoBackend, _driver, _history

pytestmark = pytest.mark.mongodb

WRITES = {"insert", "update", "delete", "findAndModify"}
COMMITTED, CONFLICT = CommitOutcome.COMMITTED, CommitOutcome.CONFLICT


class Recorder(CommandListener):
    """The commands that clients have sent."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def take_writes(self) -> list[tuple[str, str]]:
        """(command, collection) of the writes since the last call."""
        firsts = [next(iter(command.items())) for command in self.commands]
        self.commands.clear()
        return [(name, collection) for name, collection in firsts if name in WRITES]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Listens to every client made after it."""
    recorder = Recorder()
    monkeypatch.setitem(_driver._DEFAULTS, "event_listeners", [recorder])
    return recorder


@pytest.fixture(params=["motor", "pymongo"])
def url(request: pytest.FixtureRequest, mongodb_database_url: str) -> str:
    """The URL of an empty database, for each driver."""
    return with_option(mongodb_database_url, f"driver={request.param}")


@pytest.fixture
async def backend(recorder: Recorder, url: str) -> AsyncIterator[Backend]:
    async with opened(url) as backend:
        recorder.commands.clear()
        yield backend


@pytest.fixture
def raw(mongodb_database_url: str) -> Iterator[Any]:
    """The same database as anybody sees it."""
    with MongoClient[dict[str, Any]](mongodb_database_url) as client:
        yield client.get_default_database()


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def opened(url: str) -> AbstractAsyncContextManager[Backend]:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Backend]:
        backend = create_backend(url, "Hub")
        try:
            assert await backend.open(PARTITIONS) == PARTITIONS
            yield backend
        finally:
            await backend.close()

    return opening()


# --- commands --------------------------------------------------------------------------


async def test_a_batch_of_commits_is_one_write_command(backend: Backend, recorder: Recorder) -> None:
    instances = [Instance(f"i{number}") for number in range(200)]
    await create(backend, *instances)
    assert recorder.take_writes() == [("insert", "Hub.instances")]
    for _ in range(2):
        commits = [instance.turn() for instance in instances]
        assert list(await backend.commit(commits)) == [COMMITTED] * 200
        assert recorder.take_writes() == [("insert", "Hub.history")]


async def test_creation_with_the_first_checkpoint_is_two_write_commands(backend: Backend, recorder: Recorder) -> None:
    commits = [Instance(f"i{number}").turn(create=True) for number in range(200)]
    assert list(await backend.commit(commits)) == [COMMITTED] * 200
    assert recorder.take_writes() == [("insert", "Hub.instances"), ("insert", "Hub.history")]


async def test_settling_skips_what_there_is_not(backend: Backend, recorder: Recorder) -> None:
    instances = [Instance(f"i{number}") for number in range(200)]
    await create(backend, *instances)
    await backend.send([new_message(f"{one.instance_id}-0", one.instance_id) for one in instances])
    commits = [one.turn() for one in instances] + [one.turn() for one in instances]
    recorder.commands.clear()
    await backend.settle(commits)
    assert recorder.take_writes() == [("update", "Hub.instances")]
    await backend.settle(
        [
            one.turn(messages=[new_message(f"{one.instance_id}-1", "i0")], consumed=[f"{one.instance_id}-0"])
            for one in instances
        ]
    )
    assert recorder.take_writes() == [("insert", "Hub.inbox"), ("update", "Hub.instances"), ("update", "Hub.inbox")]
    await backend.settle([])
    assert recorder.take_writes() == []


async def test_a_sequence_of_three_activities_is_six_write_commands(backend: Backend, recorder: Recorder) -> None:
    instance = Instance("hello")
    await create(backend, instance)
    commits = [instance.turn(due_at=0) for _ in range(3)] + [instance.last_turn()]
    for commit in commits:
        assert list(await backend.commit([commit])) == [COMMITTED]
    await backend.settle(commits)
    assert len(recorder.take_writes()) == 6


async def test_every_write_is_journaled_by_a_majority_whatever_the_url_says(recorder: Recorder, url: str) -> None:
    async with opened(with_option(url, "w=0")) as backend:
        instance = Instance("a")
        await create(backend, instance)
        await apply(backend, instance.turn(messages=[new_message("m", "a")]), instance.last_turn(consumed=["m"]))
        await backend.annotate([])
        await backend.put_payloads("a", {"k": b"v"})
        await backend.heartbeat(new_worker("w"), T0, 10)
        await backend.acquire_partitions("w", [1], T0, 10)
        await backend.remove_worker("w")
        assert await backend.purge(["a"]) == 1
        await backend.sweep(LATE)
    writes = [command for command in recorder.commands if next(iter(command)) in WRITES]
    assert len(writes) > 15
    for command in writes:
        assert command["writeConcern"] == {"w": "majority", "j": True}, command


# --- plans -----------------------------------------------------------------------------


async def test_no_command_scans_a_growing_collection(backend: Backend, recorder: Recorder, raw: Any) -> None:
    instances = [Instance(f"i{number:03}", name=f"n{number % 3}") for number in range(60)]
    await create(backend, *instances)
    await apply(backend, *(one.turn() for one in instances[:40]))
    await apply(backend, *(one.last_turn() for one in instances[:20]))
    await backend.send([new_message(f"m{one.instance_id}", one.instance_id) for one in instances])
    recorder.commands.clear()
    for include_busy in (True, False):
        for after in (None, "i010"):
            assert await backend.runnable(range(3), LATE, include_busy=include_busy, after=after, limit=5)
    assert await backend.load("i001", "e1")
    assert await backend.get(["i001", "i002"])
    assert await backend.receive(["i001", "i002"])
    for query in (
        Query(page_size=10),
        Query(status=(RuntimeStatus.PENDING, RuntimeStatus.RUNNING), page_size=10),
        Query(name="n1", page_size=5),
        Query(name="n1", status=(RuntimeStatus.COMPLETED,), page_size=2),
        Query(id_prefix="i00", page_size=3),
        Query(created_from=T0, created_to=T0, page_size=20),
    ):
        assert len(await query_all(backend, query)) > query.page_size
    assert await backend.purge(["i000", "i001"]) == 2
    await backend.get_payloads("i001", ["k"])
    await backend.sweep(LATE)
    await apply(backend, instances[30].turn(consumed=["mi030"]), instances[31].turn(consumed=["mi031"]))
    await backend.annotate([Annotation("i032", 1, "parked", 1)])
    kinds = {"find", "aggregate", "delete", "update"}
    used = [command for command in recorder.commands if kinds & command.keys()]
    assert len(used) > 30
    for command in used:
        if next(iter(command.values())) != "Hub.workers" and not points_at_one(command):
            plan = raw.command("explain", explainable(command), verbosity="queryPlanner")
            assert "COLLSCAN" not in str(plan), command


def points_at_one(command: dict[str, Any]) -> bool:
    return "updates" in command and all(isinstance(update["q"].get("_id"), str) for update in command["updates"])


def explainable(command: dict[str, Any]) -> dict[str, Any]:
    """What to explain: a read as it is; for a write, the read by which it finds its documents."""
    kind, collection = next(iter(command.items()))
    if kind in ("update", "delete"):
        write = command[f"{kind}s"][0]
        return {"find": collection, "filter": write["q"]} | ({"hint": write["hint"]} if "hint" in write else {})
    session = {"lsid", "txnNumber", "$clusterTime", "$db", "maxTimeMS", "readConcern"}
    return {name: value for name, value in command.items() if name not in session}


# --- documents -------------------------------------------------------------------------


async def test_documents_are_readable_and_hold_no_field_that_a_user_named(backend: Backend, raw: Any) -> None:
    hostile = {"$set": "x", "a.b": "$where", "": "\x00"}
    instance = Instance("a", tags=hostile, name="$name", input='{"$gt":""}')
    started = ExecutionStarted(T0, "a", "e1", "$name", '{"$gt":""}', tags=hostile)
    await create(backend, instance)
    await apply(backend, instance.turn(events=[started]))
    listed = [{"name": name, "value": value} for name, value in hostile.items()]
    record = raw["Hub.instances"].find_one()
    assert (record["_id"], record["name"], record["status"], record["tags"]) == ("a", "$name", "Running", listed)
    checkpoint = raw["Hub.history"].find_one()
    assert checkpoint["_id"] == "a/e1/00000000"
    [event] = checkpoint["events"]
    assert (event["type"], event["timestamp"], event["tags"]) == ("ExecutionStarted", T0, listed)
    [loaded] = await backend.load("a", "e1")
    assert loaded.events == (started,)
    assert type(loaded.events[0].timestamp) is int
    [stored] = await backend.get(["a"])
    assert stored is not None
    assert stored.tags == hostile


async def test_operators_in_values_do_nothing(backend: Backend) -> None:
    await create(backend, Instance("a"), Instance("b"))
    anything = cast("Any", {"$ne": "nothing"})
    assert (await backend.query(Query(name=anything))).records == ()
    assert list(await backend.load(anything, anything)) == []
    assert await backend.purge(['{"$gt":""}', "$where"]) == 0
    assert list(await backend.get(['{"$gt":""}', "^a"])) == [None, None]


async def test_history_of_a_newer_version_is_refused(backend: Backend, raw: Any) -> None:
    instance = Instance("a")
    await create(backend, instance)
    await backend.commit([instance.turn(), instance.turn()])
    raw["Hub.history"].update_one({"seq": 1}, {"$set": {"events.0.type": "FromTheFuture"}})
    assert len(await backend.load("a", "e1", limit=1)) == 1
    with pytest.raises(UnsupportedHistoryError, match="FromTheFuture"):
        await backend.load("a", "e1", from_seq=1)
    raw["Hub.history"].update_one({"seq": 0}, {"$set": {"format": 99}})
    with pytest.raises(UnsupportedHistoryError, match="99"):
        await backend.load("a", "e1")


# --- parts of large checkpoints --------------------------------------------------------


async def test_a_large_checkpoint_is_committed_by_its_own_document_last(
    backend: Backend, recorder: Recorder, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_history, "MAX_DOCUMENT", 1000)
    instance = Instance("a")
    await create(backend, instance)
    recorder.commands.clear()
    events = [*big_events(300, 8), *big_events(2500, 2), TaskCompleted(T0, 99, "null")]
    large, small = instance.turn(events=events), instance.turn()
    assert list(await backend.commit([large])) == [COMMITTED]
    assert recorder.take_writes() == [("insert", "Hub.history")] * 2
    assert list(await backend.commit([large])) == [COMMITTED]
    assert list(await backend.commit([small])) == [COMMITTED]
    assert list(await backend.load("a", "e1")) == [large.checkpoint, small.checkpoint]
    assert raw["Hub.history"].count_documents({"part_of": "a/e1/00000000"}) > 6
    await backend.settle([large, small, instance.last_turn()])
    assert await backend.purge(["a"]) == 1
    assert raw["Hub.history"].count_documents({}) == 0


async def test_parts_without_their_document_are_nothing(
    backend: Backend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_history, "MAX_DOCUMENT", 1000)
    instance = Instance("a")
    await create(backend, instance)
    died = instance.turn(events=big_events(300, 8))
    assert list(await backend.commit([died])) == [COMMITTED]
    assert raw["Hub.history"].delete_one({"_id": "a/e1/00000000"}).deleted_count == 1  # as if it died before that
    assert list(await backend.load("a", "e1")) == []
    other = replace(died, checkpoint=replace(died.checkpoint, token="b", events=tuple(big_events(310, 9))))
    assert list(await backend.commit([other])) == [COMMITTED]
    assert list(await backend.load("a", "e1")) == [other.checkpoint]
    assert list(await backend.commit([died])) == [CONFLICT]
    assert list(await backend.commit([rival_of(died)])) == [CONFLICT]
    assert list(await backend.load("a", "e1")) == [other.checkpoint]


# --- URL and drivers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("mongo://h", "starts with mongodb://"),
        ("mongodb://h/a.b", "database name 'a.b'"),
        ("mongodb://h/d?driver=sync", "write driver=motor or pymongo"),
        ("mongodb://h/d?wibble=1", "wibble"),
        ("mongodb://h:port/d", "[Pp]ort"),
        ("mongodb:///d", "not right"),
    ],
)
def test_a_bad_url_is_refused(url: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        MongoBackend.from_url(url, "Hub")


def test_a_bad_url_does_not_tell_the_password() -> None:
    with pytest.raises(ValueError, match="database name") as caught:
        MongoBackend.from_url("mongodb://me:secret@h/a.b", "Hub")
    assert "secret" not in str(caught.value)


def test_the_options_of_the_driver_are_kept() -> None:
    url = MongoBackend.from_url("mongodb://h1:1,h2:2/db?Driver=pymongo&replicaSet=rs0&timeoutMS=5", "Hub")._url
    assert url.options == {"replicaset", "timeoutms"}
    parsed = parse_uri(url.connection_string)
    assert parsed["nodelist"] == [("h1", 1), ("h2", 2)]
    assert parsed["database"] == url.database == "db"
    assert MongoBackend.from_url("mongodb://h?replicaSet=rs0", "Hub")._url.database == "durable"


@pytest.mark.parametrize(
    ("absent", "url"),
    [("pymongo", "mongodb://h/"), ("motor", "mongodb://h/")],
)
def test_a_missing_driver_says_what_to_install(absent: str, url: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ({absent!r}, "bson" if {absent!r} == "pymongo" else {absent!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from durable.backend import create_backend
create_backend({url!r}, "Hub")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: the MongoDB backend needs"), done.stderr
    assert "pip install 'durable-orchestrations[mongodb]'" in last


async def test_the_drivers_see_each_other(mongodb_database_url: str) -> None:
    motor, pymongo = (with_option(mongodb_database_url, f"driver={name}") for name in ("motor", "pymongo"))
    async with opened(motor) as one, opened(pymongo) as two:
        instance = Instance("a")
        await create(one, instance)
        await apply(two, first := instance.turn())
        await apply(one, second := instance.turn())
        for backend in (one, two):
            assert list(await backend.load("a", "e1")) == [first.checkpoint, second.checkpoint]
