"""Starts at a later time, starts of an id that is in use, and waiting for a start, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    BackendUnavailable,
    InstanceExistsError,
    InstanceHandle,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationTerminatedError,
    RuntimeStatus,
    TaskHub,
)
from durable.backend import Commit, Message
from durable.backend_url import create_backend
from durable.core import events as ev
from durable.testing.faults import Fault, FaultyBackend, Step, scripted_plan
from durable.testing.memory import MemoryBackend
from tests.e2e.histories import rows_of
from tests.e2e.virtual_time import in_virtual_time, virtual_hub
from tests.e2e.waiting import until

DEADLINE = 30
SOON = timedelta(seconds=1)
MUCH_LATER = timedelta(days=400)


def listening_hub(store: str | MemoryBackend, hub: TaskHub | None = None) -> tuple[TaskHub, Any, list[str]]:
    """A hub with an orchestrator that notes that it began, then returns its input and the event "go"."""
    hub = hub or TaskHub(store)
    begun: list[str] = []

    @hub.activity
    async def note(instance_id: str) -> None:
        begun.append(instance_id)

    @hub.orchestrator
    async def listen(ctx: OrchestrationContext, text: str = "") -> str:
        await note(ctx.instance_id)
        return f"{text}{await ctx.wait_for_external_event('go', str)}"

    return hub, listen, begun


async def started_at(handle: InstanceHandle[Any]) -> datetime:
    [started] = rows_of(await handle.history(), ev.ExecutionStarted)
    return datetime.fromtimestamp(started.timestamp / 1_000_000, UTC)


# --- at a later time -----------------------------------------------------------------------------


async def test_it_begins_at_its_time_and_not_before(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)
    async with hub.worker():
        start_at = datetime.now(UTC) + SOON
        handle = await hub.start(listen, start_at=start_at)
        status = await handle.status()
        assert (status.runtime_status, status.scheduled_start_at) == (RuntimeStatus.PENDING, start_at)
        await handle.raise_event("go", "early")
        status = await handle.wait_for_start(DEADLINE)
        assert datetime.now(UTC) >= start_at
        assert (status.runtime_status is RuntimeStatus.PENDING, status.scheduled_start_at) == (False, None)
        assert await handle.result(DEADLINE) == "early"
        assert await started_at(handle) >= start_at
    assert begun == [handle.instance_id]


async def test_a_restarted_worker_keeps_the_time(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)
    async with hub:
        start_at = datetime.now(UTC) + SOON
        async with hub.worker():
            handle = await hub.start(listen, start_at=start_at)
            await handle.raise_event("go", "x")
        async with hub.worker():
            assert begun == [] or datetime.now(UTC) >= start_at
            assert await handle.result(DEADLINE) == "x"
        assert await started_at(handle) >= start_at


async def test_a_time_that_has_passed_is_now(hub_url: str) -> None:
    hub, listen, _ = listening_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(listen, start_at=datetime(2001, 1, 1, tzinfo=UTC))
        await handle.raise_event("go", "x")
        assert await handle.result(DEADLINE) == "x"
        assert await started_at(handle) >= (await handle.status()).created_at


async def test_what_waits_for_its_time_can_be_terminated_and_purged(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(listen, start_at=datetime.now(UTC) + MUCH_LATER)
        await handle.raise_event("go", "x")
        await handle.terminate("not needed")
        with pytest.raises(OrchestrationTerminatedError):
            await handle.result(DEADLINE)
        status = await handle.status()
        assert status.completed_at is not None
        assert status.completed_at < datetime.now(UTC) + timedelta(minutes=1)
        assert await handle.purge() == 1
        with pytest.raises(InstanceNotFoundError):
            await handle.status()
    assert begun == []


async def test_a_time_needs_a_time_zone(hub_url: str) -> None:
    hub, listen, _ = listening_hub(hub_url)
    async with hub:
        with pytest.raises(ValueError, match="time zone"):
            await hub.start(listen, start_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the mistake


@pytest.mark.parametrize("settles_on_commit", [False, True])
def test_neither_scans_nor_hints_nor_events_begin_it_early(settles_on_commit: bool) -> None:
    """Ten minutes pass, with whole scans of the store every half minute, and a change of owner."""

    async def main() -> None:
        backend = MemoryBackend(settles_on_commit=settles_on_commit)
        hub, listen, begun = listening_hub(backend, virtual_hub(backend))
        loop = asyncio.get_running_loop()
        async with hub:
            start_at = datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(minutes=10)
            async with hub.worker():
                handle = await hub.start(listen, start_at=start_at, instance_id="later")
                for text in ("first", "second"):
                    await handle.raise_event("go", text)
                    await asyncio.sleep(200.0)
                assert not hub._worker.has_live("later")  # type: ignore[union-attr]  # it costs nothing
                assert len(await backend.receive(["later"])) == 2
            async with hub.worker():
                await asyncio.sleep(190.0)
                assert begun == []
                assert await handle.result() == "first"
            assert await started_at(handle) >= start_at
            assert loop.time() < 605.0

    in_virtual_time(main)


def test_a_termination_that_comes_while_its_inbox_is_read_does_not_wait_for_the_next_scan() -> None:
    class SlowToAnswer(MemoryBackend):
        """What was true when the inbox was read is heard a second later."""

        async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
            found = await super().receive(instance_ids, limit)
            await asyncio.sleep(1.0)
            return found

    async def main() -> None:
        backend = SlowToAnswer()
        hub, listen, _ = listening_hub(backend, virtual_hub(backend))
        async with hub.worker():
            start_at = datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(days=1)
            handle = await hub.start(listen, start_at=start_at, instance_id="later")
            await asyncio.sleep(5.0)
            await handle.raise_event("go", "x")  # for which it is looked up
            await asyncio.sleep(0.5)
            await handle.terminate("not needed")
            with pytest.raises(OrchestrationTerminatedError):
                await handle.result(10)

    in_virtual_time(main)


# --- an id that is in use --------------------------------------------------------------------------


async def test_a_bad_choice_is_named(hub_url: str) -> None:
    hub, listen, _ = listening_hub(hub_url)
    async with hub:
        with pytest.raises(ValueError, match=r"raise, use_existing, replace_finished, terminate_existing; not 'rais'"):
            await hub.start(listen, on_conflict="rais")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"kept for the library"):
            await hub.start(listen, tags={"durable.x": "y"})


async def test_use_existing_gives_what_is_there(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)
    async with hub.worker():
        first = await hub.start(listen, "first ", instance_id="one", on_conflict="use_existing")
        second = await hub.start(listen, "second ", instance_id="one", on_conflict="use_existing")
        await second.raise_event("go", "x")
        assert await first.result(DEADLINE) == await second.result(DEADLINE) == "first x"
        third = await hub.start(listen, "third ", instance_id="one", on_conflict="use_existing")
        assert await third.result(DEADLINE) == "first x"
    assert begun == ["one"]


async def test_replace_finished_replaces_what_has_ended_and_nothing_else(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)
    async with hub:
        async with hub.worker():
            first = await hub.start(listen, "first ", instance_id="one", on_conflict="replace_finished")
            await first.wait_for_start(DEADLINE)
            with pytest.raises(InstanceExistsError, match="Running"):
                await hub.start(listen, "second ", instance_id="one", on_conflict="replace_finished")
            await first.raise_event("go", "x", idempotency_key="x")
            assert await first.result(DEADLINE) == "first x"
            second = await hub.start(listen, "second ", instance_id="one", on_conflict="replace_finished")
        async with hub.worker():
            await second.raise_event("go", "y")
            assert await second.result(DEADLINE) == "second y"
            history = await second.history()
    assert begun == ["one", "one"]
    assert len(rows_of(history, ev.ExecutionStarted)) == 1


async def test_terminate_existing_ends_the_tree_first(hub_url: str) -> None:
    hub, listen, begun = listening_hub(hub_url)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        return str(await listen.options(instance_id="child")())

    async with hub.worker():
        former = await hub.start(parent, instance_id="one")
        await hub.get(former.instance_id).wait_for_start(DEADLINE)
        await until(lambda: begun, lambda seen: seen == ["child"])
        new = await hub.start(listen, "new ", instance_id="one", on_conflict="terminate_existing")
        await new.raise_event("go", "x")
        assert await new.result(DEADLINE) == "new x"
        with pytest.raises(OrchestrationTerminatedError):
            await hub.get("child").result(DEADLINE)
    assert begun == ["child", "one"]


async def test_terminate_existing_waits_no_longer_than_start_timeout() -> None:
    hub, listen, _ = listening_hub(MemoryBackend())
    hub.settings = type(hub.settings)(start_timeout=0.3)
    async with hub:  # nobody runs what is to end
        await hub.start(listen, instance_id="one")
        with pytest.raises(InstanceExistsError, match="Pending"):
            await hub.start(listen, instance_id="one", on_conflict="terminate_existing")


@pytest.mark.parametrize("on_conflict", ["raise", "use_existing", "replace_finished"])
async def test_of_two_that_start_at_once_one_is_started(hub_url: str, on_conflict: Any) -> None:
    hubs = [listening_hub(hub_url) for _ in range(2)]
    async with hubs[0][0], hubs[1][0].worker():
        done = await asyncio.gather(
            *(
                hub.start(listen, f"{number} ", instance_id="one", on_conflict=on_conflict)
                for number, (hub, listen, _) in enumerate(hubs)
            ),
            return_exceptions=True,
        )
        handles = [one for one in done if isinstance(one, InstanceHandle)]
        assert len(handles) == (2 if on_conflict == "use_existing" else 1)
        assert all(isinstance(one, InstanceHandle | InstanceExistsError) for one in done)
        await handles[0].raise_event("go", "x")
        results = [await handle.result(DEADLINE) for handle in handles]
        assert results in (["0 x"] * len(handles), ["1 x"] * len(handles))
    assert [begun for _, _, begun in hubs] == [[], ["one"]]


@pytest.mark.parametrize("fault", [Fault.FAIL_BEFORE, Fault.FAIL_AFTER])
async def test_a_start_in_doubt_is_repeated_and_starts_one(hub_url: str, fault: Fault) -> None:
    steps = {"create_instances": [Step(fault), Step(fault), Step()]}
    inner = create_backend(hub_url, "default")
    hub, listen, begun = listening_hub(FaultyBackend(inner, scripted_plan(steps)))  # type: ignore[arg-type]
    async with hub:  # without a worker, the store is asked to create it
        handle = await hub.start(listen, "only ", instance_id="one", on_conflict="replace_finished")
        again = await hub.start(listen, "again ", instance_id="one", on_conflict="use_existing")
        async with hub.worker():
            await again.raise_event("go", "x")
            assert await handle.result(DEADLINE) == "only x"
    assert begun == ["one"]


def test_what_is_still_written_for_the_former_instance_does_not_reach_the_new_one() -> None:
    """A worker settled the end of the former one, did not hear that it had, and repeats it after the replacement."""

    class Deaf(MemoryBackend):
        """Settles an end, says nothing, and lets the worker repeat it once ``replaced`` is set."""

        def __init__(self) -> None:
            super().__init__()
            self.replaced, self.repeated = asyncio.Event(), asyncio.Event()

        async def settle(self, commits: Sequence[Commit]) -> None:
            ends = any(commit.record.status.is_terminal and commit.record.input == '["first "]' for commit in commits)
            if ends and not self.replaced.is_set():
                await super().settle(commits)
                await self.replaced.wait()
                raise BackendUnavailable("the answer was lost")
            await super().settle(commits)
            if ends:
                self.repeated.set()

    async def main() -> None:
        backend = Deaf()
        hub, listen, _ = listening_hub(backend, virtual_hub(backend))
        other = virtual_hub(MemoryBackend(backend.store))
        async with other, hub.worker():
            first = await hub.start(listen, "first ", instance_id="one")
            await first.raise_event("go", "x")
            await until(other.get("one").status, lambda s: s.runtime_status is RuntimeStatus.COMPLETED)
            await other.start("listen", "second ", instance_id="one", on_conflict="replace_finished")
            backend.replaced.set()
            await backend.repeated.wait()
            record = backend.store.records["one"]
            assert (record.input, record.status.is_terminal) == ('["second "]', False)
            await other.get("one").raise_event("go", "y")
            assert await other.get("one").result(60) == "second y"

    in_virtual_time(main)


# --- waiting for the start -------------------------------------------------------------------------


async def test_waiting_for_the_start_from_elsewhere(hub_url: str) -> None:
    hub, listen, _ = listening_hub(hub_url)
    async with TaskHub(hub_url) as elsewhere:
        handle = await elsewhere.start("listen")
        with pytest.raises(TimeoutError):
            await handle.wait_for_start(0.05)
        waiting = asyncio.create_task(handle.wait_for_start(timedelta(seconds=DEADLINE)))
        async with hub.worker():
            assert (await waiting).runtime_status is RuntimeStatus.RUNNING
            assert (await hub.get(handle.instance_id).wait_for_start(DEADLINE)).name == listen.name
            await handle.raise_event("go", "x")
            await handle.result(DEADLINE)
            assert (await handle.wait_for_start(DEADLINE)).output == "x"
        with pytest.raises(InstanceNotFoundError):
            await elsewhere.get("nobody").wait_for_start(DEADLINE)
