"""What the storage port does not show of the MongoDB backend: its commands, documents, plans, URL and drivers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.uri_parser import parse_uri

from durable.backend import Annotation, Backend, Commit, CommitOutcome, Grouping, Hint, Query, Start
from durable.backend_url import create_backend
from durable.core.errors import FailureDetails, UnsupportedHistoryError
from durable.core.events import (
    ContinueAsNew,
    EntityOperationSignaled,
    EntityStateSet,
    EventRaised,
    ExecutionStarted,
    ParentInstance,
    PreviousAttempt,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
)
from durable.core.ids import next_execution_id
from durable.core.state import RuntimeStatus
from durable.tasks import QueueLimits
from durable.testing.conformance.builders import (
    LATE,
    PARTITIONS,
    T0,
    Instance,
    apply,
    big_events,
    create,
    inbox_of,
    new_message,
    new_record,
    new_worker,
    query_all,
    record_of,
    rival_of,
)
from durable.testing.conformance.queues import TTL, claim, new_task
from durable_mongodb import MongoBackend, _driver, _history, _indexes, _purging
from durable_mongodb._watch import Watcher

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
    await backend.consume([], T0)
    assert recorder.take_writes() == []


async def test_settling_is_one_write_command_for_each_step(backend: Backend, recorder: Recorder) -> None:
    instances = [Instance(f"i{number}") for number in range(100)]
    await create(backend, *instances, Instance("child-of-i0", "stranger"))
    await backend.send([new_message(f"{one.instance_id}-0", one.instance_id) for one in instances])
    commits = [
        replace(
            one.turn(messages=[new_message(f"{one.instance_id}-1", "i0")], consumed=[f"{one.instance_id}-0"]),
            starts=(start_of_child(one),),
            drops=("e0",),
        )
        for one in instances
    ]
    for _ in range(2):
        recorder.commands.clear()
        await backend.settle(commits)
        assert recorder.take_writes() == [
            ("insert", "Hub.instances"),
            ("insert", "Hub.inbox"),
            ("delete", "Hub.history"),
            ("update", "Hub.instances"),
            ("update", "Hub.inbox"),
        ]
    assert await inbox_of(backend, "i0") == ["failed-i0", *sorted(f"{one.instance_id}-1" for one in instances)]
    assert (await record_of(backend, "child-of-i0")).execution_id == "stranger"
    assert (await record_of(backend, "child-of-i99")).execution_id == "c99"


def start_of_child(parent: Instance) -> Start:
    name = parent.instance_id
    return Start(new_record(f"child-of-{name}", f"c{name[1:]}"), new_message(f"failed-{name}", name))


async def test_no_history_goes_while_the_record_is_in_it(backend: Backend, recorder: Recorder) -> None:
    still, moving = Instance("still"), Instance("moving")
    await create(backend, still, moving)
    commits = [still.turn()]
    for _ in range(4):
        ended = moving.record.execution_id
        commits.append(continued(moving))
        commits.append(replace(moving.turn(), drops=(ended,)))
    for commit in commits:
        assert list(await backend.commit([commit])) == [COMMITTED]
    recorder.commands.clear()
    await backend.settle(commits)
    update, delete = ("update", "Hub.instances"), ("delete", "Hub.history")
    assert recorder.take_writes() == [update, *[delete, update] * 4]
    assert await record_of(backend, "moving") == moving.record
    assert await record_of(backend, "still") == still.record
    lengths = [len(await backend.load("moving", execution_id)) for execution_id in ("e1", "e1.1", "e1.3", "e1.4")]
    assert lengths == [0, 0, 0, 1]


def continued(instance: Instance) -> Commit:
    """The last turn of an execution; the record is the next one's start."""
    commit = instance.turn()
    instance.continue_as(next_execution_id(commit.record.execution_id))
    return replace(commit, record=instance.record)


async def test_the_input_is_written_again_only_with_a_new_execution(backend: Backend, recorder: Recorder) -> None:
    instance = Instance("a", input='["' + "x" * 1000 + '"]')
    await create(backend, instance)
    await apply(backend, instance.turn())
    await apply(backend, replace(instance.turn(), record=replace(instance.record, input="[9]")))
    assert (await record_of(backend, "a")).input == '["' + "x" * 1000 + '"]'
    instance.continue_as("e1.1")
    await apply(backend, instance.turn(input="[2]"))
    assert (await record_of(backend, "a")).input == "[2]"
    updates = [command["updates"][0]["u"]["$set"] for command in recorder.commands if "update" in command]
    assert ["input" in update for update in updates] == [False, False, True]


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
        everything = instance.turn(messages=[new_message("m", "a"), tombstone := new_message("n", "a")])
        await apply(backend, replace(everything, starts=(Start(new_record("b")),), drops=("e0",)))
        await apply(backend, instance.last_turn(consumed=["m"]))
        await backend.consume([tombstone], T0)
        await backend.annotate([Annotation("a", 2, "parked", 1)])
        await backend.put_payloads("a", {"k": b"v"})
        await backend.heartbeat(new_worker("w"), T0, 10)
        await backend.acquire_partitions("w", [1], T0, 10)
        await backend.remove_worker("w")
        assert await backend.purge(["a"]) == 1
        await backend.sweep(LATE)
    writes = [command for command in recorder.commands if next(iter(command)) in WRITES]
    assert len(writes) > 20
    for command in writes:
        assert command["writeConcern"] == {"w": "majority", "j": True}, command


# --- plans -----------------------------------------------------------------------------


QUERIES = (
    Query(page_size=10),
    Query(status=(RuntimeStatus.PENDING, RuntimeStatus.RUNNING), page_size=10),
    Query(name="n1", page_size=5),
    Query(name="n1", status=(RuntimeStatus.COMPLETED,), page_size=2),
    Query(id_prefix="i00", page_size=3),
    Query(created_from=T0, created_to=T0, page_size=20),
    Query(created_from=T0, oldest_first=True, page_size=20),
    Query(updated_from=T0 + 1, page_size=5),
    Query(updated_to=T0 + 10**9, oldest_first=True, page_size=5),
    Query(tags={"team": "a"}, page_size=5),
    Query(tags={"team": "a", "size": "1"}, oldest_first=True, page_size=2),
    Query(custom_status="1", page_size=5),
    Query(custom_status="1", tags={"team": "a"}, page_size=2),
    Query(entities=True, page_size=5),
    Query(entities=True, name="counter", page_size=5),
    Query(entities=True, id_prefix="@counter@1", page_size=5),
    Query(entities=True, status=(RuntimeStatus.PENDING,), page_size=5),
)
"""Each has more than one page in the test below."""
BOTH: tuple[Grouping, ...] = ("status", "name")


@pytest.mark.parametrize(
    ("query", "bounds"),
    [
        (Query(tags={"team": "a"}), {"tags": {"name": "team", "value": "a"}}),
        (Query(custom_status="1"), {"custom_status": "1"}),
        (Query(name="n"), {"name": "n"}),
        (Query(status=(RuntimeStatus.RUNNING,)), {"status": "Running"}),
    ],
    ids=["tags", "custom status", "name", "status"],
)
async def test_a_condition_is_looked_up_in_an_index_that_begins_with_it(
    backend: Backend, recorder: Recorder, raw: Any, query: Query, bounds: dict[str, Any]
) -> None:
    await backend.query(query)
    [command] = [command for command in recorder.commands if "find" in command]
    [(field, wanted)] = bounds.items()
    index = raw["Hub.instances"].index_information()[command["hint"]]
    assert [name for name, _ in index["key"]] == [field, "created_at", "_id"]
    conditions = command["filter"]["$and"]
    assert any(one.get(field) in ({"$eq": wanted}, {"$in": [wanted]}) for one in conditions)
    assert all(only in conditions for only in [index.get("partialFilterExpression")] if only), "or it is not used"


async def test_expired_instances_are_found_in_an_index_that_holds_all_that_is_asked(
    backend: Backend, recorder: Recorder, raw: Any
) -> None:
    await backend.expired(T0, 1)
    [command] = [command for command in recorder.commands if "find" in command]
    index = raw["Hub.instances"].index_information()[command["hint"]]
    keys = [name for name, _ in index["key"]]
    assert keys[: len(command["sort"])] == list(command["sort"])
    assert command["filter"].keys() <= set(keys)
    assert index["partialFilterExpression"] == {"purge_at": {"$gte": 0}}


async def test_no_command_scans_a_growing_collection(backend: Backend, recorder: Recorder, raw: Any) -> None:
    instances = [
        Instance(f"i{number:03}", name=f"n{number % 3}", tags={"team": "ab"[number % 2], "size": str(number % 5)})
        for number in range(60)
    ]
    await create(backend, *instances, *(Instance(f"@counter@{number}", name="counter") for number in range(20)))
    await apply(backend, *(one.turn(custom_status=str(position % 3)) for position, one in enumerate(instances[:40])))
    await apply(backend, *(one.last_turn(purge_at=T0) for one in instances[:20]))
    await backend.send([new_message(f"m{one.instance_id}", one.instance_id) for one in instances])
    recorder.commands.clear()
    for include_busy in (True, False):
        for after in (None, "i010"):
            assert await backend.runnable(range(3), LATE, include_busy=include_busy, after=after, limit=5)
    assert await backend.load("i001", "e1")
    assert await backend.get(["i001", "i002"])
    assert await backend.receive(["i001", "i002"])
    for query in QUERIES:
        assert len(await query_all(backend, query)) > query.page_size
        for by in BOTH:
            assert await backend.count(query, by)
    assert await backend.set_hold("i002", "case")
    assert len(await backend.expired(T0, 5)) == 5
    assert await backend.purge(["i000", "i001"]) == 2
    await backend.get_payloads("i001", ["k"])
    await backend.sweep(LATE)
    await apply(backend, instances[30].turn(consumed=["mi030"]), instances[31].turn(consumed=["mi031"]))
    await backend.consume([new_message("mi032", "i032")], T0)
    taken = Start(new_record("i034", "e2"), new_message("taken", "i033"))
    await apply(backend, replace(instances[33].turn(), drops=("e0", "e7"), starts=(taken,)))
    await backend.annotate([Annotation("i032", 1, "parked", 1)])
    kinds = {"find", "aggregate", "delete", "update"}
    used = [command for command in recorder.commands if kinds & command.keys()]
    assert len(used) > 30
    for command in used:
        if next(iter(command.values())) != "Hub.workers" and not points_at_one(command):
            plan = raw.command("explain", explainable(command), verbosity="queryPlanner")
            assert "COLLSCAN" not in str(plan), command


async def test_no_command_of_a_queue_scans_it(backend: MongoBackend, recorder: Recorder, raw: Any) -> None:
    await backend.offer_tasks([new_task(number, key=f"k{number % 3}") for number in range(150)])
    recorder.commands.clear()
    limits = QueueLimits(concurrency=140, per_key=40)
    claimed = await claim(backend, limits=limits, limit=130)
    ids = [task.task_id for task in claimed.tasks]
    assert len(ids) == 120
    await claim(backend, "b", now=T0 + TTL, limit=1)
    await backend.renew_tasks("q", "a", ids, T0, TTL)
    await backend.release_tasks("q", "a", ids[:5])
    await backend.finish_tasks("q", "a", ids[5:])
    await backend.withdraw_tasks("q", ids)
    used = [command for command in recorder.commands if {"find", "delete", "update"} & command.keys()]
    assert len(used) > 10
    for command in used:
        if not points_at_one(command):
            plan = raw.command("explain", explainable(command), verbosity="queryPlanner")
            assert "COLLSCAN" not in str(plan), command


async def test_a_process_that_dies_between_two_writes_of_a_queue_leaves_it_right(
    backend: MongoBackend, raw: Any
) -> None:
    one = QueueLimits(concurrency=1)
    await backend.offer_tasks([new_task(number) for number in (1, 2, 3)])
    [first] = (await claim(backend, limits=one)).tasks
    raw["Hub.tasks"].delete_one({"_id": first.task_id})  # it finished or withdrew it, and went no further
    assert (await claim(backend, "b", one)).tasks == ()
    [second] = (await claim(backend, "b", one, now=T0 + TTL)).tasks
    assert second.task_id == "i/e/00000002"
    claims = raw["Hub.queues"].find_one({"_id": "q"})["claims"]
    assert [each["task"] for each in claims] == [second.task_id]  # what is gone is forgotten
    await backend.finish_tasks("q", "b", [second.task_id])
    assert [task.task_id for task in (await claim(backend, "b", one, now=T0 + TTL)).tasks] == ["i/e/00000003"]


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


# --- purging ---------------------------------------------------------------------------


async def test_a_purge_marks_the_record_first_and_deletes_it_last(backend: Backend, recorder: Recorder) -> None:
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.last_turn())
    recorder.commands.clear()
    assert await backend.purge(["a"]) == 1
    assert recorder.take_writes() == [
        ("update", "Hub.instances"),
        ("delete", "Hub.history"),
        ("delete", "Hub.inbox"),
        ("delete", "Hub.payloads"),
        ("delete", "Hub.instances"),
    ]


async def test_a_purge_that_was_cut_off_is_gone_for_all_and_is_finished(backend: Backend, raw: Any) -> None:
    instance, other = Instance("a", tags={"k": "v"}), Instance("b")
    await create(backend, instance, other)
    await apply(backend, instance.last_turn(custom_status="1"), other.last_turn(purge_at=T0))
    await backend.put_payloads("a", {"k": b"v"})
    await break_purge(raw, "a")
    assert list(await backend.get(["a"])) == [None]
    for query in (Query(), Query(tags={"k": "v"}), Query(custom_status="1"), Query(id_prefix="a")):
        assert "a" not in [record.instance_id for record in await query_all(backend, query)]
    assert await backend.count(Query(), "status") == {"Completed": 1}
    assert await backend.set_hold("a", "too late") is False
    [taken] = await backend.create_instances([new_record("a", "e9")])
    assert taken is not None, "its id is not free before all of it is gone"
    assert taken.execution_id == "e1"
    assert list(await backend.expired(T0, 10)) == ["a", "b"], "though it had no time to go"
    assert await backend.purge(["a"]) == 1
    assert list(await backend.create_instances([new_record("a", "e9")])) == [None]
    assert await backend.get_payloads("a", ["k"]) == {}


async def test_a_turn_that_comes_after_the_mark_does_not_bring_the_instance_back(backend: Backend, raw: Any) -> None:
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.last_turn(status=RuntimeStatus.FAILED))
    await break_purge(raw, "a")
    await backend.settle([instance.turn()])
    assert list(await backend.get(["a"])) == [None]
    assert list(await backend.expired(T0, 10)) == ["a"]
    assert await backend.purge(["a"]) == 1


async def test_a_purge_gives_no_hint(url: str, mongodb_database_url: str) -> None:
    async with opened(url) as backend, opened(mongodb_database_url) as watching:
        instances = [Instance(f"i{number}") for number in range(5)]
        await create(backend, *instances)
        await apply(backend, *(one.last_turn() for one in instances))
        hints = watching.watch()
        try:
            assert await anext(hints) == Hint(None)  # look for yourself: the stream has begun
            assert await backend.purge([one.instance_id for one in instances]) == 5
            await create(backend, Instance("after"))
            async with asyncio.timeout(30):
                assert await anext(hints) == Hint("after")
        finally:
            await cast("AsyncGenerator[Hint, None]", hints).aclose()


async def break_purge(raw: Any, instance_id: str) -> None:
    """Leave an instance as a purge does whose process dies after its first deletion."""
    raw["Hub.instances"].update_one({"_id": instance_id}, _purging._MARK)
    assert raw["Hub.history"].delete_many({"instance_id": instance_id}).deleted_count


async def test_a_hub_of_an_earlier_layout_gets_what_is_new(url: str, raw: Any) -> None:
    async with opened(url) as backend:
        instance = Instance("a")
        await create(backend, instance)
        await apply(backend, instance.last_turn())
    instances = raw["Hub.instances"]
    instances.update_one({"_id": "a"}, {"$unset": {"purge_at": "", "hold": ""}})
    for name in ("tags", "custom_status", "expiry"):
        instances.drop_index(name)
    raw["Hub.meta"].delete_one({"_id": f"layout-{_indexes.LAYOUT}"})
    raw["Hub.meta"].insert_one({"_id": "layout-1"})
    async with opened(url) as backend:
        assert await record_of(backend, "a") == instance.record
        assert {"tags", "custom_status", "expiry"} <= set(instances.index_information())
        assert await query_all(backend, Query()) == [instance.record]
        assert await backend.set_hold("a", "case")
        assert await backend.purge(["a"]) == 0
        assert await backend.set_hold("a", None)
        assert await backend.purge(["a"]) == 1


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


async def test_parent_and_heartbeats_are_readable_and_name_no_field(backend: Backend, raw: Any) -> None:
    parent = ParentInstance("$parent", "e.1", 2**40, "root")
    heartbeats = {"7": '{"$set":1}', "a.b": "", "$x": "null"}
    instance = Instance("a", parent=parent)
    await create(backend, instance)
    await apply(backend, replace(instance.turn(heartbeats=heartbeats), record=replace(instance.record, parent=None)))
    stored = raw["Hub.instances"].find_one()
    assert stored["parent"] == {
        "instance_id": "$parent",
        "execution_id": "e.1",
        "task_id": 2**40,
        "root_instance_id": "root",
    }
    assert stored["heartbeats"] == [{"task": task, "details": text} for task, text in heartbeats.items()]
    record = await record_of(backend, "a")
    assert (record.parent, record.heartbeats) == (parent, heartbeats)
    await backend.annotate([Annotation("a", 1, None, 0, {"8": "1"})])
    assert (await record_of(backend, "a")).heartbeats == {"8": "1"}
    assert {type(value) for value in leaves(await record_of(backend, "a"))} <= PLAIN


PLAIN = {int, str, bool, type(None), RuntimeStatus}


def leaves(value: Any) -> Iterator[Any]:
    """What a value is made of."""
    if is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, tuple):
        parts = [*value]
    else:
        yield value
        return
    for part in parts:
        yield from leaves(part)


async def test_integers_deep_in_an_event_are_plain(backend: Backend) -> None:
    large = 2**53 + 1  # BSON's 64-bit ones would come back as a class of their own
    cause = FailureDetails("a.B", "text", retry_after=large)
    events = (
        ExecutionStarted(large, "a", "e1", "n", "[]", parent=ParentInstance("p", "e", large, "r")),
        TaskScheduled(large, large, "n", "[]", previous=PreviousAttempt(large, large)),
        TaskFailed(large, large, FailureDetails("c.D", "text", None, cause, True, large)),
        ContinueAsNew(large, "e1.1", "[]", (EventRaised(large, "n", "1"), EventRaised(large, "m", "2", "id"))),
        EntityStateSet(
            large, None, ("a", "e1", large), (EntityOperationSignaled(large, 1, "@c@k", "add", "1", large),)
        ),
    )
    instance = Instance("a")
    await create(backend, instance)
    message = new_message("m", "a", sent_at=large, event=events[1])
    await apply(backend, instance.turn(events=events, messages=[replace(message, execution_id="e1")]))
    [checkpoint] = await backend.load("a", "e1")
    assert checkpoint.events == events
    [received] = await backend.receive(["a"])
    assert received == replace(message, execution_id="e1")
    assert {type(value) for value in leaves((checkpoint, received))} <= PLAIN


async def test_entities_are_those_whose_id_begins_with_their_character(backend: Backend) -> None:
    others, entities = ["?\U0010ffff", "A", "\x00", "é", "a@"], ["@", "@\x00", "@a@b", "@\U0010ffff"]
    await create(backend, *(Instance(instance_id) for instance_id in others + entities))
    for wanted, expected in ((False, others), (True, entities)):
        found = await query_all(backend, Query(entities=wanted, page_size=2))
        assert [record.instance_id for record in found] == sorted(expected, reverse=True)


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


async def test_dropped_executions_go_with_their_parts_and_no_others(
    backend: Backend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_history, "MAX_DOCUMENT", 1000)
    one, two = Instance("one"), Instance("two")
    await create(backend, one, two)
    for instance in (one, two):
        for _ in range(2):
            await apply(backend, instance.turn(events=big_events(300, 8)))
            await apply(backend, continued(instance))
    await apply(
        backend,
        replace(one.turn(), drops=("e1",)),
        replace(two.turn(), drops=("e1.1",)),
    )
    left = {(part["instance_id"], part["execution_id"]) for part in raw["Hub.history"].find({"part_of": {"$gt": ""}})}
    assert left == {("one", "e1.1"), ("two", "e1")}
    assert [len(await backend.load("one", each)) for each in ("e1", "e1.1", "e1.2")] == [0, 2, 1]
    assert [len(await backend.load("two", each)) for each in ("e1", "e1.1", "e1.2")] == [2, 0, 1]


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
from durable.backend_url import create_backend
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


class OneChange:
    """What stands behind a change stream: one change, when it is let through."""

    alive = True

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.is_closed = False

    async def try_next(self) -> dict[str, Any]:
        await self.let.wait()
        self.let.clear()
        return {"documentKey": {"_id": "a"}, "ns": {"coll": "hub.instances"}}

    async def close(self) -> None:
        self.is_closed = True

    async def watch(self, stages: Any) -> _driver.ChangeStream:
        return _driver.ChangeStream(self)


@pytest.mark.parametrize("turns", range(-4, 9))
async def test_a_watch_may_be_closed_at_whatever_moment_a_change_comes(turns: int) -> None:
    """The change comes that many turns of the event loop before the watch is closed."""
    stream = OneChange()
    watcher = Watcher(cast("_driver.Connection", stream), "hub")

    async def collect() -> list[Hint]:
        return [hint async for hint in watcher.hints()]

    async def change(after: int) -> None:
        await pass_turns(after)
        stream.let.set()

    watching = asyncio.create_task(collect())
    await pass_turns(10)  # it waits for a change
    changing = asyncio.create_task(change(max(0, -turns)))
    await pass_turns(max(0, turns))
    closing = asyncio.create_task(watcher.close())
    await changing
    await pass_turns(20)
    stream.let.set()  # it waits for the next one, perhaps
    async with asyncio.timeout(5):
        await closing
        assert all(hint in (Hint(None), Hint("a")) for hint in await watching)
    assert stream.is_closed


async def pass_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
