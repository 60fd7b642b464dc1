"""What is special to SQLite: URLs, the file, locks of other processes, crashes, threads."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable.backend import BackendError, BackendUnavailable, CommitOutcome, Query
from durable.core.errors import UnsupportedHistoryError
from durable.core.events import TaskCompleted
from durable.core.state import RuntimeStatus
from durable.tasks import QueueLimits
from durable.testing.conformance.builders import (
    LATE,
    PARTITIONS,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    new_record,
    record_of,
    rival_of,
    runnable_ids,
)
from durable.testing.conformance.queues import claim, new_task
from durable_sqlite import SqliteBackend
from durable_sqlite._threads import ConnectionThread

DEADLINE = 20.0

WRITER = """
import asyncio, sys
from durable.testing.conformance.builders import Instance
from durable_sqlite import SqliteBackend

async def main(url, run):
    backend = SqliteBackend.from_url(url, "Hub")
    await backend.open(16)
    generation = 0
    while True:
        generation += 1
        instances = [Instance(f"{run}-{generation}-{number}") for number in range(5)]
        for turn in range(3):
            outcomes = await backend.commit([instance.turn(create=turn == 0) for instance in instances])
            assert {outcome.value for outcome in outcomes} == {"committed"}
            print(generation, turn + 1, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""

OPENER = """
import asyncio, sys
from durable_sqlite import SqliteBackend

async def main(url, partition_count):
    backend = SqliteBackend.from_url(url, "Hub")
    print("ready", flush=True)
    sys.stdin.readline()
    print(await backend.open(int(partition_count)), flush=True)
    await backend.close()

asyncio.run(main(*sys.argv[1:]))
"""

FORGETFUL = """
import asyncio, sys
from durable.testing.conformance.builders import new_record
from durable_sqlite import SqliteBackend

async def main(url):
    backend = SqliteBackend.from_url(url, "Hub")
    await backend.open(16)
    writing = asyncio.ensure_future(backend.create_instances([new_record("a")]))
    await asyncio.sleep(0)
    writing.cancel()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process, killed and waited for at the end."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(path: Path, **options: float) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"sqlite:///{path}" + (f"?{query}" if query else "")


async def opened(path: Path, hub: str = "Hub", **options: float) -> SqliteBackend:
    backend = SqliteBackend.from_url(url_of(path, **options), hub)
    await backend.open(PARTITIONS)
    return backend


@pytest.fixture
async def backend(path: Path) -> Any:
    backend = await opened(path, timeout=0.2)
    yield backend
    await backend.close()


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("durable-sqlite")]


# --- URLs and names


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///file::memory:", "memory://"),
        ("sqlite:hello.db", "not a SQLite URL"),
        ("sqlite:/hello.db", "not a SQLite URL"),
        ("sqlite://hello.db", "not a SQLite URL"),
        ("sqlite://localhost/hello.db", "not a SQLite URL"),
        ("sqlite:///a#b", "not a SQLite URL"),
        ("sqlite:///a%00b", "not a SQLite URL"),
        ("sqlite:///directory/", "not a SQLite URL"),
        ("mysql:///hello.db", "not a SQLite URL"),
        ("hello.db", "not a SQLite URL"),
        ("sqlite:///a?timeout=soon", "bad query"),
        ("sqlite:///a?timeout", "bad query"),
        ("sqlite:///a?timeout=0", "more than 0"),
        ("sqlite:///a?timeout=-1", "more than 0"),
        ("sqlite:///a?timeout=nan", "more than 0"),
        ("sqlite:///a?timeout=inf", "at most"),
        ("sqlite:///a?cache=shared", "unknown option 'cache'"),
    ],
)
def test_a_wrong_url_is_refused_and_says_why(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        SqliteBackend.from_url(url, "Hub")
    assert url in str(caught.value)


@pytest.mark.parametrize("hub", ["", "1a", "a-b", "a b", "x" * 64, "sqlite", "SQLite_x", 'a"; DROP TABLE b'])
def test_a_hub_name_that_cannot_be_a_table_prefix_is_refused(hub: str) -> None:
    with pytest.raises(ValueError, match="task hub name"):
        SqliteBackend.from_url("sqlite:///hub.db", hub)


@pytest.mark.parametrize("name", ["hub.db", "a b.db", "100%.db", "ü.db", "with?mark.db"])
async def test_a_relative_url_is_a_file_in_the_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SqliteBackend.from_url("sqlite:///" + name.replace("%", "%25").replace("?", "%3F"), "Hub")
    monkeypatch.chdir("/")
    await backend.open(PARTITIONS)
    await backend.close()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("count", [0, -1])
async def test_a_partition_count_below_one_is_refused(path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await SqliteBackend.from_url(url_of(path), "Hub").open(count)


# --- the file


async def test_several_hubs_share_a_file_and_nothing_else(path: Path) -> None:
    names = ["Hub", "Hub_instances", "Other"]
    hubs = [await opened(path, name) for name in names]
    for number, hub in enumerate(hubs):
        instance = Instance("a", input=f"[{number}]")
        await create(hub, instance)
        await apply(hub, instance.turn(messages=[new_message("m", "a")]))
    assert await hubs[0].purge(["a"]) == 0
    await hubs[0].send([new_message("more", "a")])
    assert [(await record_of(hub, "a")).input for hub in hubs] == ["[0]", "[1]", "[2]"]
    assert [await inbox_of(hub, "a") for hub in hubs] == [["m", "more"], ["m"], ["m"]]
    for hub in hubs:
        await hub.close()


async def test_a_hub_whose_name_differs_only_in_case_is_refused(path: Path, backend: SqliteBackend) -> None:
    with pytest.raises(BackendError, match="holds the task hub 'Hub'"):
        await opened(path, "hub")


async def test_tables_of_a_newer_version_are_refused(path: Path) -> None:
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE Hub_meta SET value = 99 WHERE key = 'schema'")
    connection.close()
    with pytest.raises(BackendError, match=r"version 99.*upgrade"):
        await opened(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    text = "not a database, but long enough to have a header " * 20
    path.write_text(text)
    with pytest.raises(BackendError, match="is not a SQLite database"):
        asyncio.run(opened(path))
    assert path.read_text() == text


async def test_a_missing_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="unable to open"):
        await opened(tmp_path / "missing" / "hub.db")


async def test_what_is_acknowledged_has_been_synced(backend: SqliteBackend) -> None:
    def settings(connection: sqlite3.Connection) -> list[Any]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await backend._writer.run(settings) == ["wal", 2]


async def test_the_last_to_close_leaves_one_file(path: Path) -> None:
    first, second = await opened(path), await opened(path)
    await first.create_instances([new_record("a")])
    await first.close()
    assert path.with_name("hub.db-wal").exists()
    await second.close()
    assert os.listdir(path.parent) == ["hub.db"]


async def test_a_full_disk_is_unavailable_and_harms_nothing(backend: SqliteBackend) -> None:
    instance = Instance("a")
    await create(backend, instance)
    big = instance.turn(output='"' + "x" * 1_000_000 + '"')
    pages = await backend._writer.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await backend._writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone())
    with pytest.raises(BackendUnavailable, match="SQLITE_FULL"):
        await backend.commit([big])
    assert (await record_of(backend, "a")).rev == 0
    await backend._writer.run(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchone())
    await apply(backend, big)
    assert await record_of(backend, "a") == big.record


# --- histories of a newer version


async def test_a_checkpoint_of_a_newer_format_is_refused(path: Path, backend: SqliteBackend) -> None:
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.turn())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE Hub_history SET format = 99")
    connection.close()
    with pytest.raises(UnsupportedHistoryError, match=r"format 99.*upgrade"):
        await backend.load("a", "e1")


async def test_a_refused_history_does_not_stop_reads_from_seeing_what_is_new(
    path: Path, backend: SqliteBackend
) -> None:
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.turn())
    await apply(backend, instance.turn())
    with sqlite3.connect(path) as connection:
        connection.execute('UPDATE Hub_history SET events = \'[{"type":"Unheard"}]\' WHERE seq = 0')
    connection.close()
    with pytest.raises(UnsupportedHistoryError) as kept:
        await backend.load("a", "e1")
    await apply(backend, instance.turn())
    assert await record_of(backend, "a") == instance.record
    assert kept.value.__traceback__ is not None  # its frames are alive during the reads above


async def test_a_stale_commit_to_a_dropped_execution_is_a_conflict(backend: SqliteBackend) -> None:
    instance = Instance("a")
    stale = rival_of(instance.turn(create=True))
    instance = Instance("a")
    first = instance.turn(create=True)
    await apply(backend, first)
    instance.continue_as("e1.1")
    await apply(backend, instance.turn(drops=["e1"]))
    for late in (stale, replace(stale, create=False), first):
        assert list(await backend.commit([late])) == [CommitOutcome.CONFLICT]
    assert not await backend.load("a", "e1")
    assert await record_of(backend, "a") == instance.record


# --- other processes


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """The write lock, held as another process would hold it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
    finally:
        connection.close()


async def test_a_lock_that_is_not_given_in_time_is_unavailable_and_reads_go_on(
    path: Path, backend: SqliteBackend
) -> None:
    instance = Instance("a")
    await create(backend, instance)
    turn = instance.turn()
    with locked(path):
        with pytest.raises(BackendUnavailable, match="locked"):
            await backend.commit([turn])
        assert (await record_of(backend, "a")).rev == 0
    await apply(backend, turn)
    assert await record_of(backend, "a") == turn.record


async def test_every_write_that_waits_for_a_lost_lock_is_unavailable(path: Path, backend: SqliteBackend) -> None:
    with locked(path):
        started = time.monotonic()
        writes = [backend.create_instances([new_record(f"i{number}")]) for number in range(50)]
        answers = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(answer) for answer in answers} == {BackendUnavailable}
    assert time.monotonic() - started < 5  # 50 times the timeout would be 10
    assert list(await backend.get([f"i{number}" for number in range(50)])) == [None] * 50


async def test_a_file_that_another_process_is_making_is_waited_for(path: Path) -> None:
    sqlite3.connect(path).close()
    with locked(path):  # not in WAL mode yet: SQLite itself does not wait for this lock
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="locked"):
            await opened(path, timeout=0.2)
        assert time.monotonic() - started >= 0.2
    await (await opened(path, timeout=0.2)).close()


async def test_a_transaction_that_begins_with_a_read_does_not_lose_to_another_writer(path: Path) -> None:
    backend, other = await opened(path), await opened(path)

    async def create_many() -> None:
        for number in range(300):
            await other.create_instances([new_record(f"other-{number}")])

    async def purge_many() -> int:
        purged = 0
        for number in range(100):
            instance = Instance(f"own-{number}")
            await apply(backend, instance.last_turn(create=True))
            purged += await backend.purge([instance.instance_id])
        return purged

    assert (await asyncio.gather(purge_many(), create_many()))[0] == 100
    await backend.close()
    await other.close()


async def test_a_lock_that_is_given_in_time_is_waited_for(path: Path) -> None:
    backend = await opened(path, timeout=DEADLINE)
    instance = Instance("a")
    with locked(path):
        writing = asyncio.ensure_future(backend.create_instances([instance.record]))
        assert list(await backend.get(["a"])) == [None]
        assert not writing.done()
    assert list(await writing) == [None]
    await backend.close()


async def test_processes_that_open_a_new_file_at_once_agree(path: Path) -> None:
    counts = ["3", "7", "11", "13"]
    with ExitStack() as stack:
        processes = [stack.enter_context(running(OPENER, url_of(path), count)) for count in counts]
        assert [await told(process) for process in processes] == ["ready"] * 4
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        opened_with = [await told(process) for process in processes]
    assert len(set(opened_with)) == 1
    assert opened_with[0] in counts


async def told(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), DEADLINE)).strip()


@pytest.mark.parametrize("run", range(4))
async def test_kill_9_between_and_in_commits_loses_nothing_acknowledged(path: Path, run: int) -> None:
    seed = random.Random(run)
    with running(WRITER, url_of(path), "run") as process:
        acknowledged = [(await told(process)).split() for _ in range(seed.randint(1, 40))]
        until = time.monotonic() + seed.random() * 0.005  # spins: a sleep is too coarse to hit inside a commit
        while time.monotonic() < until:
            pass
        process.kill()
        assert process.stdout is not None
        acknowledged += [line.split() for line in process.stdout.read().splitlines(keepends=True) if line[-1:] == "\n"]
    backend = await opened(path)
    records = (await backend.query(Query(page_size=10_000))).records
    turns = {record.instance_id: record.rev for record in records}
    for generation, turn in acknowledged:
        assert all(turns[f"run-{generation}-{number}"] >= int(turn) for number in range(5))
    for record in records:  # the record and the history of a commit are there together, or neither
        history = await backend.load(record.instance_id, "e1")
        assert [checkpoint.seq for checkpoint in history] == list(range(record.rev))
        assert record.status is RuntimeStatus.RUNNING
    assert len({record.rev for record in records if record.instance_id.startswith(f"run-{acknowledged[-1][0]}-")}) == 1
    await backend.close()


async def test_another_process_writing_at_the_same_time_is_seen_and_not_hindered(path: Path) -> None:
    backend = await opened(path)
    hint = asyncio.ensure_future(anext(backend.watch()))
    own = [Instance(f"own-{number}") for number in range(100)]
    with running(WRITER, url_of(path), "other") as process:
        first = await told(process)
        for instance in own:
            await apply(backend, instance.turn(create=True))
        assert first == "1 1"
        assert (await asyncio.wait_for(hint, DEADLINE)).instance_id is None
        while (await told(process)).split()[0] != "3":
            pass
    assert list(await backend.get([instance.instance_id for instance in own])) == [one.record for one in own]
    assert (await record_of(backend, "other-2-0")).rev == 3
    await backend.close()


# --- threads and cancellation


async def test_threads_end_with_close_and_with_an_open_that_fails(tmp_path: Path) -> None:
    backend = await opened(tmp_path / "hub.db")
    assert len(own_threads()) == 2
    await asyncio.gather(backend.close(), backend.close())
    await eventually(lambda: not own_threads())
    with pytest.raises(BackendUnavailable):
        await opened(tmp_path / "missing" / "hub.db")
    await eventually(lambda: not own_threads())


async def test_close_finishes_the_writes_under_way(path: Path) -> None:
    backend = await opened(path)
    writes = [asyncio.ensure_future(backend.create_instances([new_record(f"i{number}")])) for number in range(300)]
    await asyncio.sleep(0)
    await backend.close()
    assert await asyncio.gather(*writes) == [[None]] * 300
    await backend.open(PARTITIONS)
    assert all(await backend.get([f"i{number}" for number in range(300)]))
    await backend.close()


async def test_a_cancelled_close_closes(path: Path) -> None:
    backend = await opened(path)
    closing = asyncio.ensure_future(backend.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await eventually(lambda: not own_threads())


async def test_a_cancelled_commit_runs_to_its_end(path: Path, backend: SqliteBackend) -> None:
    instances = [Instance(f"i{number}") for number in range(20)]
    with locked(path):
        writes = [asyncio.ensure_future(backend.commit([one.turn(create=True)])) for one in instances]
        await asyncio.sleep(0)
        for write in writes[::2]:
            write.cancel()
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(answer) for answer in answers[::2]] == [asyncio.CancelledError] * 10
    assert answers[1::2] == [[CommitOutcome.COMMITTED]] * 10
    assert list(await backend.get([one.instance_id for one in instances])) == [one.record for one in instances]


async def test_a_process_that_forgets_to_close_ends_in_silence(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-c", FORGETFUL, url_of(path), stderr=subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert (process.returncode, errors) == (0, b"")


async def test_of_writes_that_share_a_transaction_only_the_faulty_one_fails(path: Path, backend: SqliteBackend) -> None:
    too_large = replace(new_record("faulty"), rev=2**63)
    records = [new_record(f"i{number}") for number in range(10)]
    with locked(path):  # so that they all wait together
        writes = [asyncio.ensure_future(backend.create_instances([record])) for record in [*records, too_large]]
        await asyncio.sleep(0)
    *answers, faulty = await asyncio.gather(*writes, return_exceptions=True)
    assert answers == [[None]] * 10
    assert isinstance(faulty, OverflowError)
    assert list(await backend.get([record.instance_id for record in [*records, too_large]])) == [*records, None]


async def test_a_commit_that_cannot_be_written_down_fails_where_it_is_made_and_harms_no_other(
    path: Path, backend: SqliteBackend
) -> None:
    good, bad = Instance("good"), Instance("bad")
    broken = bad.turn(create=True, events=[TaskCompleted(T0, 1, '"\ud800"')])  # half a character: no UTF-8 has it
    with locked(path):  # so that they share a transaction
        writes = [asyncio.ensure_future(backend.commit([commit])) for commit in (broken, good.turn(create=True))]
        await asyncio.sleep(0)
    failed, committed = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(failed, TypeError)
    assert committed == [CommitOutcome.COMMITTED]
    assert list(await backend.get(["good", "bad"])) == [good.record, None]


async def test_a_writer_that_is_quicker_than_the_caller_prepares_for_itself(path: Path) -> None:
    writer = ConnectionThread("quick", lambda: sqlite3.connect(path, isolation_level=None))
    await writer.start()
    both = threading.Barrier(2)

    def prepare() -> int:
        both.wait(DEADLINE)  # neither waits for what the other makes
        return 7

    assert await writer.write_prepared(prepare, lambda connection, made: made) == 7
    await writer.stop()


# --- many rows


async def statements_of(thread: ConnectionThread, operation: Callable[[], Awaitable[object]]) -> list[str]:
    """The SQL that ``operation`` runs on that connection, values filled in."""
    seen: list[str] = []
    await thread.run(lambda connection: connection.set_trace_callback(seen.append))
    await operation()
    await thread.run(lambda connection: connection.set_trace_callback(None))
    return seen


async def plan_of(backend: SqliteBackend, query: Query) -> list[str]:
    """How SQLite goes about a query."""
    return await plans_of(backend, lambda: backend.query(query))


async def plans_of(backend: SqliteBackend, operation: Callable[[], Awaitable[object]]) -> list[str]:
    """How SQLite goes about the one statement of a read."""
    [statement] = await statements_of(backend._reader, operation)
    rows = await backend._reader.run(
        lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    )
    return [text for *_, text in rows]


async def test_a_turn_without_effects_costs_two_statements(backend: SqliteBackend) -> None:
    instance = Instance("a")
    await create(backend, instance)
    commit = instance.turn()
    seen = await statements_of(backend._writer, lambda: backend.commit([commit]))
    assert [statement.split()[0] for statement in seen] == ["BEGIN", "INSERT", "UPDATE", "COMMIT"]


@pytest.mark.parametrize(("entities", "index"), [(False, "Hub_instances_created"), (True, "Hub_entities_created")])
async def test_a_page_is_read_in_the_order_of_an_index_of_its_own(
    backend: SqliteBackend, entities: bool, index: str
) -> None:
    instances = [Instance(f"{sign}{number}", created_at=T0 + number) for number in range(20) for sign in ("@", "a")]
    await create(backend, *instances)
    first = Query(entities=entities, page_size=5)
    after = replace(first, continuation=(await backend.query(first)).continuation)
    oldest = replace(first, oldest_first=True)
    later = replace(oldest, continuation=(await backend.query(oldest)).continuation)
    named = replace(first, name="orchestrator", status=(RuntimeStatus.PENDING,))
    filtered = replace(first, updated_from=T0, updated_to=T0, tags={"k": "v"}, custom_status="1")
    for query in (first, after, oldest, later, named, filtered):
        walk, *rest = await plan_of(backend, query)
        assert f"USING INDEX {index}" in walk
        assert rest == ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"]  # ties only


async def test_expired_instances_are_found_in_an_index_of_those_that_may_go(backend: SqliteBackend) -> None:
    walk, *_ = await plans_of(backend, lambda: backend.expired(T0, 5))
    assert "USING INDEX Hub_instances_expiry (purge_at" in walk


async def test_tables_of_version_1_are_brought_up_to_date(path: Path) -> None:
    backend = await opened(path)
    instance = Instance("a")
    await create(backend, instance)
    await apply(backend, instance.last_turn())
    await backend.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX Hub_instances_expiry")
        for column in ("purge_at", "hold"):
            connection.execute(f"ALTER TABLE Hub_instances DROP COLUMN {column}")
        connection.execute("UPDATE Hub_meta SET value = 1 WHERE key = 'schema'")
    connection.close()
    for _ in range(2):
        backend = await opened(path)
        assert await record_of(backend, "a") == instance.record
        assert await backend.set_hold("a", "case") is True
        assert await backend.purge(["a"]) == 0
        assert await backend.set_hold("a", None) is True
        assert await backend.expired(LATE, 10) == []
        await backend.close()


async def test_tables_of_version_2_get_queues(path: Path) -> None:
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE Hub_tasks")
        connection.execute("DROP TABLE Hub_queues")
        connection.execute("UPDATE Hub_meta SET value = 2 WHERE key = 'schema'")
    connection.close()
    for number in range(2):
        backend = await opened(path)
        await backend.offer_tasks([new_task(number)])
        assert len((await claim(backend, f"w{number}")).tasks) == 1
        await backend.close()


async def test_idle_workers_do_not_write_and_read_in_the_order_of_an_index(backend: SqliteBackend) -> None:
    await backend.offer_tasks([new_task(number) for number in range(20)])
    one = QueueLimits(concurrency=1)
    await claim(backend, limits=one)
    assert await statements_of(backend._writer, lambda: claim(backend, "b", one)) == []
    for statement in await statements_of(backend._reader, lambda: claim(backend, "b", one)):
        plan = str(await backend._reader.run(partial(explained, statement)))
        assert "SCAN" not in plan
        assert "Hub_tasks_turns" not in plan or "TEMP B-TREE" not in plan


def explained(statement: str, connection: sqlite3.Connection) -> list[str]:
    return [text for *_, text in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


async def test_a_sweep_of_many_tombstones_takes_all(backend: SqliteBackend) -> None:
    messages = [new_message(f"m{number}", "a") for number in range(12_000)]
    instance = Instance("a")
    await create(backend, instance)
    await backend.send(messages)
    await apply(backend, instance.turn(consumed=[message.message_id for message in messages]))
    assert await backend.sweep(LATE) == 12_000
    assert await backend.sweep(LATE) == 0


async def test_a_page_of_runnable_instances_holds_the_first_ids_of_every_kind(backend: SqliteBackend) -> None:
    kinds: Sequence[dict[str, Any]] = [{"due_at": 0}, {"due_at": T0}, {"due_at": None}]
    instances = [Instance(f"i{number:03}", **kinds[number % 3]) for number in range(300)]
    await create(backend, *instances)
    await backend.send([new_message(f"m{one.instance_id}", one.instance_id) for one in instances[2::3]])
    everything = await runnable_ids(backend)
    assert everything == [one.instance_id for one in instances]
    paged: list[str] = []
    while page := await backend.runnable(range(PARTITIONS), T0, after=paged[-1] if paged else None, limit=7):
        paged += [wakeup.instance_id for wakeup in page]
    assert paged == everything
