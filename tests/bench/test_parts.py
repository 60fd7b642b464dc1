"""What the benchmarks measure with: each part must find what is known to be there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable.backend import InstanceRecord
from durable.bench.plan import chosen, plan
from durable.bench.recording import RecordingBackend, Repetition
from durable.bench.stores import Store, a_store
from durable.core.ids import partition_of
from durable.core.state import RuntimeStatus
from durable_sqlite import SqliteBackend

NAMES = list(plan("memory", quick=True))


def record_of(instance_id: str, input: str = "[]") -> InstanceRecord:
    return InstanceRecord(
        instance_id, f"{instance_id}-x", "work", partition_of(instance_id, 4), 1, 1, input, RuntimeStatus.PENDING
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with a_store(f"sqlite:///{tmp_path / 'mine.db'}") as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
async def test_every_workload_comes_to_its_end(name: str) -> None:
    with a_store("memory://") as store:
        result = await plan("memory", quick=True)[name](store)
    assert result.figures
    assert {figure: value for figure, value in result.figures.items() if not value >= 0} == {}


async def test_a_transaction_is_counted_as_a_sync_and_what_it_stores_as_bytes(store: Store) -> None:
    place = store.fresh()
    backend = place.backend()
    await backend.open(4)
    syncs, size = place.meter.counts()["syncs"], place.meter.size()
    assert size is not None
    for number in range(5):
        await backend.create_instances([record_of(str(number), '["' + "x" * 10_000 + '"]')])
    grown = place.meter.size()
    counted = place.meter.counts()["syncs"] - syncs
    await backend.close()
    assert counted == 5
    assert grown is not None
    assert 50_000 <= grown - size < 100_000


async def test_writes_that_were_made_at_once_are_repeated_at_once(store: Store) -> None:
    recorder = RecordingBackend(store.fresh().backend(), keep=True)
    await recorder.open(4)
    await recorder.create_instances([record_of("first")])
    await asyncio.gather(*[recorder.create_instances([record_of(str(number))]) for number in range(50)])
    await recorder.close()

    place = store.fresh()
    repeated = place.backend()
    await repeated.open(4)
    syncs = place.meter.counts()["syncs"]
    await Repetition(repeated).write(recorder.steps)
    syncs = place.meter.counts()["syncs"] - syncs
    found = await repeated.get(["first", *map(str, range(50))])
    await repeated.close()
    assert None not in found
    assert 2 <= syncs <= 25  # one after the other it would be 51


async def test_without_a_floor_nothing_is_kept(store: Store) -> None:
    recorder = RecordingBackend(store.fresh().backend(), keep=False)
    await recorder.open(4)
    await recorder.create_instances([record_of("a")])
    await recorder.close()
    assert recorder.steps == []


async def _make(backend: SqliteBackend) -> None:
    await backend.open(4)
    await backend.close()


def test_a_store_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_bytes(b"not touched, not even read")
    with a_store(f"sqlite:///{tmp_path / 'mine.db'}?timeout=7") as store:
        place = store.fresh()
        assert place.url.endswith("?timeout=7")
        backend = place.backend()
        assert isinstance(backend, SqliteBackend)
        asyncio.run(_make(backend))
        assert len(list(tmp_path.rglob("*.db"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.db"]
    assert (tmp_path / "mine.db").read_bytes() == b"not touched, not even read"


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, ["W1-latency", "W1-throughput", "W2"]),
        ("w1", ["W1-latency", "W1-throughput"]),
        ("W2, W1-latency,W2", ["W2", "W1-latency"]),
    ],
)
def test_workloads_are_chosen_by_name(only: str | None, expected: list[str]) -> None:
    assert chosen(["W1-latency", "W1-throughput", "W2"], only) == expected


@pytest.mark.parametrize("only", ["W3", "", ",", "W1-", "W1,hello"])
def test_a_name_that_is_none_is_refused(only: str) -> None:
    with pytest.raises(ValueError, match="there are W1-latency, W2"):
        chosen(["W1-latency", "W2"], only)


@pytest.mark.parametrize(
    ("url", "error"),
    [("redis://x", ValueError), ("sqlite://x", ValueError), ("sqlite:///no/such/folder/x.db", OSError)],
)
def test_a_store_that_cannot_be_used_is_refused(
    url: str, error: type[Exception], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error), a_store(url):
        pass
    assert list(tmp_path.iterdir()) == []
