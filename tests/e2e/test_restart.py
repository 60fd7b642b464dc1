"""Restarting instances under a new id or their own, on every store."""

from __future__ import annotations

import pytest

from durable import (
    EntityId,
    InstanceExistsError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.histories import rows_of

DEADLINE = 30


def counting_hub(hub_url: str) -> tuple[TaskHub, list[str]]:
    """A hub with orchestrators "tell", which fails when told so, and "listen"; and the instances that ran "tell"."""
    hub = TaskHub(hub_url)
    ran: list[str] = []

    @hub.activity
    async def note(instance_id: str) -> None:
        ran.append(instance_id)

    @hub.orchestrator
    async def tell(ctx: OrchestrationContext, text: str, *, fails: bool = False) -> str:
        await note(ctx.instance_id)
        if fails:
            raise ValueError(text)
        return f"{text} {ctx.version}"

    @hub.orchestrator
    async def listen(ctx: OrchestrationContext) -> str:
        return await ctx.wait_for_external_event("go", str)

    return hub, ran


async def test_a_new_instance_with_what_the_former_was_given(hub_url: str) -> None:
    hub, ran = counting_hub(hub_url)
    async with hub:
        async with hub.worker():
            former = await hub.start("tell", "x", instance_id="one", version="7", tags={"team": "a"})
            assert await former.result(DEADLINE) == "x 7"
            again = await former.restart()
            named = await former.restart(instance_id="two")
        async with hub.worker():
            assert [await again.result(DEADLINE), await named.result(DEADLINE)] == ["x 7", "x 7"]
            status = await again.status()
            assert (status.version, status.tags, status.input) == ("7", {"team": "a"}, ["x"])
            with pytest.raises(InstanceExistsError, match="two"):
                await former.restart(instance_id="two")
    assert len({"one", again.instance_id, "two"}) == 3
    assert sorted(ran) == sorted(["one", again.instance_id, "two"])


async def test_in_its_own_place(hub_url: str) -> None:
    hub, ran = counting_hub(hub_url)
    async with hub:
        async with hub.worker():
            handle = await hub.start("tell", "x", fails=True, instance_id="one")
            for runs in (1, 2):
                with pytest.raises(OrchestrationFailedError, match="x"):
                    await handle.result(DEADLINE)
                assert ran == ["one"] * runs
                former = await handle.status()
                assert (await handle.restart(new_id=False)).instance_id == "one"
                assert (await handle.status()).execution_id != former.execution_id
        async with hub.worker():
            with pytest.raises(OrchestrationFailedError, match="x"):
                await handle.result(DEADLINE)
            assert len(rows_of(await handle.history(), ev.ExecutionStarted)) == 1
            assert (await handle.status()).input == {"args": ["x"], "kwargs": {"fails": True}}
    assert ran == ["one"] * 3


async def test_what_cannot_be_restarted(hub_url: str) -> None:
    hub, _ = counting_hub(hub_url)
    async with hub.worker():
        handle = await hub.start("listen")
        with pytest.raises(InstanceNotFinishedError):
            await handle.restart(new_id=False)
        twin = await handle.restart()  # a running one may be doubled
        await twin.raise_event("go", "x")
        assert await twin.result(DEADLINE) == "x"
        with pytest.raises(ValueError, match="new_id=False"):
            await twin.restart(new_id=False, instance_id="other")
        with pytest.raises(InstanceNotFoundError):
            await hub.get("nobody").restart()
        with pytest.raises(ValueError, match="entity"):
            await hub.get(str(EntityId("counter", "a"))).restart()
