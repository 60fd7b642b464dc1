"""What is special to MemoryBackend: its URLs, and stores that outlive the backends on them."""

from __future__ import annotations

import asyncio

import pytest

from durable.backend_url import create_backend
from durable.testing.conformance.builders import Instance, create, new_record, record_of
from durable.testing.memory import MemoryBackend


async def test_a_nameless_url_gives_a_store_of_its_own() -> None:
    first, second = (MemoryBackend.from_url("memory://", "hub") for _ in range(2))
    await first.open(1)
    await second.open(2)
    await create(first, Instance("a"))
    assert list(await second.get(["a"])) == [None]


async def test_a_named_url_gives_one_store_per_name_and_hub() -> None:
    first = create_backend("memory://Shared-1", "hub")
    await first.open(1)
    instance = Instance("a")
    await create(first, instance)
    await first.close()

    again = create_backend("memory://Shared-1", "hub")
    assert await again.open(5) == 1
    assert await record_of(again, "a") == instance.record
    for url, hub in [("memory://Shared-1", "hub2"), ("memory://shared-1", "hub")]:
        stranger = create_backend(url, hub)
        await stranger.open(1)
        assert list(await stranger.get(["a"])) == [None]


@pytest.mark.parametrize("url", ["memory:/a", "sqlite://a", "memory://a/b", "memory://a?x=1", "a"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="memory://name"):
        MemoryBackend.from_url(url, "hub")


def test_a_bad_hub_name_is_refused() -> None:
    with pytest.raises(ValueError, match="hub"):
        MemoryBackend.from_url("memory://", "no good")


async def test_a_slow_watcher_gets_one_hint_for_very_many_changes() -> None:
    backend = MemoryBackend()
    other = MemoryBackend(backend.store)
    await backend.open(1)
    await other.open(1)
    hints = backend.watch()
    first = asyncio.ensure_future(anext(hints))
    await asyncio.sleep(0)
    await other.create_instances([new_record(f"i{number}") for number in range(5000)])
    assert (await first).instance_id is None
    await backend.close()
    assert [hint async for hint in hints] == []


async def test_own_changes_give_no_hint() -> None:
    backend = MemoryBackend()
    other = MemoryBackend(backend.store)
    await backend.open(1)
    await other.open(1)
    first = asyncio.ensure_future(anext(backend.watch()))
    await asyncio.sleep(0)
    await create(backend, Instance("own"))
    await create(other, Instance("foreign"))
    assert (await first).instance_id == "foreign"
    await backend.close()
