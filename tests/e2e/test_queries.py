"""Finding, counting, terminating and purging many instances, on every store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durable import (
    InstanceNotFoundError,
    InstancePage,
    OrchestrationContext,
    OrchestrationTerminatedError,
    PayloadError,
    RuntimeStatus,
    TaskHub,
)
from durable.backend import Page, Query
from durable.testing.memory import MemoryBackend
from tests.e2e.waiting import until

DEADLINE = 30


class Shop:
    """A hub whose orchestrators wait, end at once, fail, or wait for a child of their own."""

    def __init__(self, url: Any) -> None:
        self.hub = TaskHub(url)

        @self.hub.orchestrator
        async def waits(ctx: OrchestrationContext, status: Any = None) -> str:
            ctx.set_custom_status(status)
            return await ctx.wait_for_external_event("go", str)

        @self.hub.orchestrator
        async def ends(ctx: OrchestrationContext, status: Any = None) -> str:
            ctx.set_custom_status(status)
            return "done"

        @self.hub.orchestrator
        async def fails(ctx: OrchestrationContext) -> None:
            raise ValueError("no")

        @self.hub.orchestrator
        async def parent(ctx: OrchestrationContext) -> str:
            return await waits.options(instance_id=f"{ctx.instance_id}-child")()

        self.waits, self.ends, self.fails, self.parent = waits, ends, fails, parent

    async def ids(self, **conditions: Any) -> list[str]:
        return [status.instance_id async for status in self.hub.query(**conditions)]

    async def end(self, count: int, prefix: str = "e", **options: Any) -> list[str]:
        """Run some instances to their end, and wait until listings show it."""
        handles = [await self.hub.start(self.ends, instance_id=f"{prefix}{n:02}", **options) for n in range(count)]
        for handle in handles:
            await handle.result(DEADLINE)
        ids = [handle.instance_id for handle in handles]
        await until(lambda: self.ids(status="Completed", id_prefix=prefix), lambda found: set(ids) <= set(found))
        return ids

    async def listed(self, instance_id: str, status: RuntimeStatus) -> None:
        """Wait until listings show an instance with that status."""
        await until(lambda: self.ids(status=status, id_prefix=instance_id), lambda found: instance_id in found)

    async def all_are(self, status: RuntimeStatus, **conditions: Any) -> None:
        await until(lambda: self.hub.count(**conditions), lambda found: found.keys() == {status.value})


@pytest.fixture
async def shop(hub_url: str) -> AsyncIterator[Shop]:
    shop = Shop(hub_url)
    async with shop.hub.worker():
        yield shop


# --- conditions ----------------------------------------------------------------------------------


async def test_by_tags_all_of_which_must_match(shop: Shop) -> None:
    await shop.end(1, "both", tags={"team": "a", "size": "1"})
    await shop.end(1, "one", tags={"team": "a"})
    await shop.end(1, "none")
    assert await shop.ids(tags={"team": "a"}) == ["one00", "both00"]
    assert await shop.ids(tags={"size": "1", "team": "a"}) == ["both00"]
    assert await shop.ids(tags={"team": "b"}) == []
    assert len(await shop.ids(tags={})) == 3


@pytest.mark.parametrize(
    ("stored", "asked", "other"),
    [
        ("halfway", "halfway", "Halfway"),
        ({"step": 1, "of": {"b": [1, {"y": 0, "x": None}], "a": 2}}, None, {"step": 1}),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, {"a": 1, "b": 2}),
        ([1, 2], (1, 2), [2, 1]),
        ("x" * 300_000, None, "x" * 300_001),
        ({"b": "x" * 300_000, "a": 1}, {"a": 1, "b": "x" * 300_000}, {"a": 1}),
    ],
    ids=["text", "deep", "swapped keys", "list", "large", "large and swapped"],
)
async def test_by_custom_status_whatever_the_order_of_its_keys(shop: Shop, stored: Any, asked: Any, other: Any) -> None:
    ended = await shop.hub.start(shop.ends, stored, instance_id="ended")
    await ended.result(DEADLINE)
    await shop.hub.start(shop.waits, stored, instance_id="waits")
    await shop.end(1, "bare")
    found = await until(lambda: shop.ids(custom_status=stored if asked is None else asked), lambda ids: len(ids) == 2)
    assert found == ["waits", "ended"]
    assert (await ended.status()).custom_status == stored
    assert await shop.ids(custom_status=other) == []


async def test_by_time_of_creation_and_of_change(shop: Shop) -> None:
    before = datetime.now(UTC)
    waiting = await shop.hub.start(shop.waits, instance_id="waiting")
    [early] = await shop.end(1, "early")
    await shop.listed("waiting", RuntimeStatus.RUNNING)
    between = datetime.now(UTC)
    [late] = await shop.end(1, "late")
    await waiting.raise_event("go", "on")
    await waiting.result(DEADLINE)
    assert await shop.ids(created_between=(before, between)) == [early, "waiting"]
    assert await shop.ids(created_between=(between, None)) == [late]
    assert await shop.ids(created_between=(None, before)) == []
    await shop.listed("waiting", RuntimeStatus.COMPLETED)
    assert await shop.ids(updated_between=(between, None)) == [late, "waiting"]
    assert await shop.ids(updated_between=(None, between)) == [early]
    elsewhere = between.astimezone(timezone(timedelta(hours=5)))
    assert await shop.ids(updated_between=(elsewhere, datetime.now(UTC)), name="waits") == ["waiting"]
    status = await waiting.status()
    exactly = (status.last_updated_at, status.last_updated_at)
    assert await shop.ids(updated_between=exactly, status=RuntimeStatus.COMPLETED) == ["waiting"]


async def test_pages_in_both_orders_go_on_where_they_left(shop: Shop) -> None:
    ids = await shop.end(7)
    for order, expected in (("oldest", ids), ("newest", ids[::-1])):
        pages = [page async for page in shop.hub.query(order=order, page_size=3).pages()]  # type: ignore[arg-type]
        assert [len(page.instances) for page in pages] == [3, 3, 1]
        assert [one.instance_id for page in pages for one in page.instances] == expected
        assert pages[-1].continuation is None
        assert isinstance(pages[0], InstancePage)
        token = pages[0].continuation
        assert await shop.ids(order=order, page_size=100, continuation=token) == expected[3:]
        other = "newest" if order == "oldest" else "oldest"
        with pytest.raises(ValueError, match="continuation"):
            shop.hub.query(order=other, continuation=token)  # type: ignore[arg-type]
    query = shop.hub.query(order="oldest")
    for _ in range(2):  # each walk is a new one
        assert [status.instance_id async for status in query] == ids


async def test_counts(shop: Shop) -> None:
    await shop.end(3, tags={"k": "v"})
    await shop.hub.start(shop.fails, instance_id="failed")
    await shop.listed("failed", RuntimeStatus.FAILED)
    assert await shop.hub.count() == {"Completed": 3, "Failed": 1}
    assert await shop.hub.count("name") == {"ends": 3, "fails": 1}
    assert await shop.hub.count("status", name="fails") == {"Failed": 1}
    assert await shop.hub.count(by="name", tags={"k": "v"}) == {"ends": 3}
    assert await shop.hub.query(id_prefix="e01", page_size=1).count("name") == {"ends": 1}
    assert await shop.hub.count(name="nobody") == {}
    with pytest.raises(ValueError, match="'input'"):
        await shop.hub.count("input")  # type: ignore[arg-type]


# --- what cannot be asked ------------------------------------------------------------------------

OPERATOR = {"$gt": ""}
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the mistake


@pytest.mark.parametrize(
    ("conditions", "error", "named"),
    [
        ({"status": OPERATOR}, TypeError, "status"),
        ({"status": [OPERATOR]}, TypeError, "status"),
        ({"status": 7}, TypeError, "7"),
        ({"status": "Sleeping"}, ValueError, "Sleeping"),
        ({"status": []}, ValueError, "status"),
        ({"name": OPERATOR}, TypeError, "name"),
        ({"name": ["a"]}, TypeError, "name"),
        ({"name": "\ud800"}, ValueError, "name"),
        ({"id_prefix": OPERATOR}, TypeError, "id_prefix"),
        ({"id_prefix": b"a"}, TypeError, "id_prefix"),
        ({"created_between": OPERATOR}, TypeError, "created_between"),
        ({"created_between": NAIVE}, TypeError, "created_between"),
        ({"created_between": (NAIVE, None)}, ValueError, "time zone"),
        ({"created_between": ("2026-01-01", None)}, TypeError, "created_between"),
        ({"updated_between": (OPERATOR, None)}, TypeError, "updated_between"),
        ({"updated_between": (None, None, None)}, TypeError, "updated_between"),
        ({"updated_between": "ab"}, TypeError, "updated_between"),
        ({"tags": "team"}, TypeError, "tags"),
        ({"tags": {"team": OPERATOR}}, TypeError, "team"),
        ({"tags": {"team": None}}, TypeError, "team"),
        ({"tags": {1: "a"}}, TypeError, "1"),
        ({"custom_status": object()}, PayloadError, "custom_status"),
        ({"order": "random"}, ValueError, "order"),
        ({"order": OPERATOR}, ValueError, "order"),
        ({"page_size": 0}, ValueError, "page_size"),
        ({"page_size": 1001}, ValueError, "page_size"),
        ({"page_size": True}, ValueError, "page_size"),
        ({"page_size": "10"}, ValueError, "page_size"),
        ({"continuation": OPERATOR}, TypeError, "continuation"),
        ({"continuation": "nonsense"}, ValueError, "continuation"),
        ({"color": "red"}, TypeError, "color"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)) if isinstance(value, dict) else "",
)
def test_a_condition_of_the_wrong_kind_is_refused_and_named(
    conditions: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        TaskHub("memory://").query(**conditions)


async def test_what_looks_like_an_operator_is_a_value(shop: Shop) -> None:
    await shop.end(2, tags={"k": "v"})
    for text in ('{"$gt": ""}', "$ne", "' OR 1=1 --", "%", "_", ".*", "\x00"):
        assert await shop.ids(name=text) == []
        assert await shop.ids(id_prefix=text) == []
        assert await shop.ids(tags={"k": text}) == []
        assert await shop.ids(tags={text: "v"}) == []
        assert await shop.ids(custom_status=text) == []
    assert await shop.ids(custom_status=OPERATOR) == []
    assert await shop.hub.count("name", name='{"$gt": ""}') == {}


# --- terminating and purging many ----------------------------------------------------------------


async def test_terminate_ends_what_has_not_ended_and_tells_how_far_it_is(shop: Shop) -> None:
    ended = await shop.end(2, "w")
    waiting = [await shop.hub.start(shop.waits, instance_id=f"w-{n:02}") for n in range(25)]
    other = await shop.hub.start(shop.waits, instance_id="other")
    steps: list[int] = []
    query = shop.hub.query(id_prefix="w", page_size=10)
    assert await query.terminate({"why": "enough"}, progress=steps.append) == 25
    assert steps == [10, 20, 25]
    for handle in waiting:
        with pytest.raises(OrchestrationTerminatedError) as caught:
            await handle.result(DEADLINE)
        assert caught.value.output == {"why": "enough"}
    counts = {"Completed": len(ended), "Terminated": 25}
    await until(lambda: shop.hub.count(id_prefix="w"), lambda found: found == counts)
    assert (await other.status()).runtime_status is not RuntimeStatus.TERMINATED
    assert await query.terminate() == 0
    assert await shop.hub.query(status=RuntimeStatus.COMPLETED).terminate() == 0


@pytest.mark.parametrize("recursive", [True, False])
async def test_terminate_takes_children_along_if_asked(shop: Shop, recursive: bool) -> None:
    parent = await shop.hub.start(shop.parent, instance_id="p")
    child = shop.hub.get("p-child")
    await until(child.status, lambda seen: seen.runtime_status is RuntimeStatus.RUNNING)
    await shop.listed("p", RuntimeStatus.RUNNING)
    assert await shop.hub.query(name="parent").terminate("stop", recursive=recursive) == 1
    with pytest.raises(OrchestrationTerminatedError):
        await parent.result(DEADLINE)
    if recursive:
        with pytest.raises(OrchestrationTerminatedError):
            await child.result(DEADLINE)
    else:
        await child.raise_event("go", "alone")
        assert await child.result(DEADLINE) == "alone"


async def test_purge_takes_what_has_ended_and_is_not_held(shop: Shop) -> None:
    ended = await shop.end(12)
    waiting = await shop.hub.start(shop.waits, instance_id="e-waiting")
    await shop.hub.get(ended[3]).hold("case 7")
    steps: list[int] = []
    query = shop.hub.query(id_prefix="e", page_size=5)
    assert await query.purge(progress=steps.append) == 11
    assert (steps[-1], len(steps)) == (11, 3)
    assert sorted(await shop.ids()) == sorted([ended[3], "e-waiting"])
    with pytest.raises(InstanceNotFoundError):
        await shop.hub.get(ended[0]).status()
    assert await query.purge() == 0
    assert await shop.hub.query(status=[RuntimeStatus.RUNNING, RuntimeStatus.PENDING]).purge() == 0
    await shop.hub.get(ended[3]).release()
    assert await query.purge() == 1
    await waiting.raise_event("go", "on")
    assert await waiting.result(DEADLINE) == "on"


async def test_purge_takes_children_along_if_asked(shop: Shop) -> None:
    for name in ("p", "q"):
        await shop.hub.start(shop.parent, instance_id=name)
        child = shop.hub.get(f"{name}-child")
        await until(child.status, lambda seen: seen.runtime_status is RuntimeStatus.RUNNING)
        await child.raise_event("go", "on")
        await shop.hub.get(name).result(DEADLINE)
        for each in (name, f"{name}-child"):
            await shop.listed(each, RuntimeStatus.COMPLETED)
    assert await shop.hub.query(name="parent", id_prefix="p").purge() == 1
    assert sorted(await shop.ids()) == ["p-child", "q", "q-child"]
    assert await shop.hub.query(name="parent").purge(recursive=True) == 2
    assert await shop.ids() == ["p-child"]


# --- what goes on meanwhile ----------------------------------------------------------------------


class Watched(MemoryBackend):
    """A store in which something happens after each page that is read."""

    meanwhile: Callable[[], Any] | None = None

    async def query(self, query: Query) -> Page:
        page = await super().query(query)
        if self.meanwhile is not None:
            await self.meanwhile()
        return page


async def test_terminate_goes_on_past_what_ended_or_vanished_and_spares_who_takes_the_id() -> None:
    backend = Watched()
    shop = Shop(backend)
    async with shop.hub.worker():
        handles = {name: await shop.hub.start(shop.waits, instance_id=name) for name in ("stays", "ends", "vanishes")}
        await shop.all_are(RuntimeStatus.RUNNING)

        async def meanwhile() -> None:
            backend.meanwhile = None
            for name in ("ends", "vanishes"):
                await handles[name].raise_event("go", "on")
                await handles[name].result(DEADLINE)
            await until(lambda: backend.purge(["vanishes"]), bool)
            await shop.hub.start(shop.waits, instance_id="vanishes")

        backend.meanwhile = meanwhile
        assert await shop.hub.query().terminate("all") == 3
        with pytest.raises(OrchestrationTerminatedError):
            await handles["stays"].result(DEADLINE)
        assert await handles["ends"].result(DEADLINE) == "on"
        again = shop.hub.get("vanishes")
        await again.raise_event("go", "another")
        assert await again.result(DEADLINE) == "another"


async def test_purge_goes_on_past_what_vanished() -> None:
    backend = Watched()
    shop = Shop(backend)
    async with shop.hub.worker():
        await shop.end(6)

        async def meanwhile() -> None:
            await backend.purge(["e02", "e03"])

        backend.meanwhile = meanwhile
        assert await shop.hub.query(page_size=2).purge() == 4
        backend.meanwhile = None
        assert await shop.ids() == []


async def test_a_listing_leaves_out_what_was_purged_before_its_values_were_read() -> None:
    backend = Watched()
    shop = Shop(backend)
    async with shop.hub.worker():
        for name in ("a", "b"):
            handle = await shop.hub.start(shop.ends, "x" * 300_000, instance_id=name)
            await handle.result(DEADLINE)

        async def meanwhile() -> None:
            await backend.purge(["a"])

        backend.meanwhile = meanwhile
        assert await shop.ids() == ["b"]


async def test_listings_do_not_hold_all_in_memory() -> None:
    backend = Watched()
    shop = Shop(backend)
    pages = 0

    async def meanwhile() -> None:
        nonlocal pages
        pages += 1

    async with shop.hub.worker():
        await shop.end(10)
        backend.meanwhile = meanwhile
        async for _ in shop.hub.query(page_size=2):
            if pages == 2:
                break
        assert pages == 2, "a page is read when it is wanted"
        await asyncio.sleep(0)
        assert pages == 2
