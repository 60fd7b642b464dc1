"""Messages between instances when workers die, lag or overtake each other: what the simulation found, reduced.

Each test is one story in virtual time, on a store that settles apart from the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from durable import BackendUnavailable, EntityId, InstanceHandle, OrchestrationContext, Registry, RuntimeStatus, TaskHub
from durable.backend import Checkpoint, Commit, CommitOutcome, Hint, InstanceRecord, Message
from durable.core import events as ev
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from durable.worker.live import LiveInstance
from tests.worker.test_recovery import SETTINGS, abandon, make_hub, until, virtual, virtual_clock

FAILOVER = 5.0
"""Virtual seconds in which another worker takes over; less than the interval of the whole scans."""


class PickyBackend(MemoryBackend):
    """A store that does not answer when it is to settle certain commits."""

    refuses: Callable[[Commit], bool] = staticmethod(lambda commit: False)

    async def settle(self, commits: Sequence[Commit]) -> None:
        if any(map(self.refuses, commits)):
            raise BackendUnavailable("it does not settle these")
        await super().settle(commits)


def picky_hub(store: MemoryStore, registry: Registry, **changes: Any) -> tuple[PickyBackend, TaskHub]:
    backend = PickyBackend(store)
    hub = TaskHub(backend, settings=replace(SETTINGS, **changes), clock=virtual_clock)
    hub.include(registry)
    return backend, hub


def has(store: MemoryStore, instance_id: str, kind: type[Any]) -> bool:
    """Whether an event of that kind is in the history of an instance."""
    checkpoints = store.history.get(instance_id, {}).values()
    return any(type(event) is kind for checkpoint in checkpoints for event in checkpoint.events)


def settles(kind: type[Any]) -> Callable[[Commit], bool]:
    """Whether a commit has an event of that kind."""
    return lambda commit: any(type(event) is kind for event in commit.checkpoint.events)


async def result(handle: InstanceHandle[Any], seconds: float = FAILOVER) -> Any:
    return await handle.result(seconds)


def eternal(registry: Registry, count: int) -> Any:
    """An orchestrator that takes in one event, ``number``, in each execution; in the end it returns ``count``."""

    @registry.orchestrator
    async def one_by_one(ctx: OrchestrationContext, got: list[int]) -> list[int]:
        got = [*got, await ctx.wait_for_external_event("number", int)]
        if len(got) < count:
            ctx.continue_as_new(got)
        return got

    return one_by_one


# --- exactly once -----------------------------------------------------------------------


class SlowBackend(MemoryBackend):
    """A store that takes its time; and one that never marks what a turn took in, although it does the rest."""

    marks = True
    reads = 0

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        await asyncio.sleep(1 if self.marks else 0)
        return await super().commit(commits)

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        self.reads += 1
        await asyncio.sleep(5 if self.marks else 0)
        return await super().receive(instance_ids, limit)

    async def settle(self, commits: Sequence[Commit]) -> None:
        if self.marks:
            return await super().settle(commits)
        await super().settle([replace(commit, consumed=()) for commit in commits])
        raise BackendUnavailable("all but the marking is done")


@virtual
async def test_what_a_dead_worker_took_in_and_did_not_mark_is_not_taken_in_by_the_next_execution() -> None:
    """The next owner knows it by its history, and marks it when all inboxes are read; the next execution has none."""
    store, registry = MemoryStore(), Registry()

    @registry.orchestrator
    async def in_pairs(ctx: OrchestrationContext, got: list[int]) -> list[int]:
        got = got + [await ctx.wait_for_external_event("number", int) for _ in range(2)]
        if len(got) < 4:
            ctx.continue_as_new(got)
        return got

    first, second = SlowBackend(store), SlowBackend(store)
    first.marks = False
    hub, other, client = (
        TaskHub(backend, settings=SETTINGS, clock=virtual_clock) for backend in (first, second, MemoryBackend(store))
    )
    hub.include(registry)
    other.include(registry)
    async with client:
        handle = client.get("one")
        async with hub.worker():
            await client.start("in_pairs", [], instance_id="one")
            await handle.raise_event("number", 1)
            await until(lambda: has(store, "one", ev.EventRaised))
            await until(lambda: store.records["one"].rev == len(store.history["one"]))
            await abandon(hub)
        await handle.raise_event("number", 2)
        async with other.worker():
            await until(lambda: second.reads > 0)  # by who loads the instance
            await asyncio.sleep(0.1)
            await handle.raise_event("number", 3)  # the inbox is to be read once more, and it goes on as new meanwhile
            await asyncio.sleep(30)
            await handle.raise_event("number", 4)
            assert await result(handle, 60) == [1, 2, 3, 4]


@virtual
async def test_a_key_that_is_raised_again_is_not_new_to_the_next_execution() -> None:
    registry, store = Registry(), MemoryStore()
    orchestrator = eternal(registry, 3)
    hub = make_hub(store, registry)
    async with hub.worker():
        handle = await hub.start(orchestrator, [])
        for number in (1, 1, 2, 2, 3):
            await handle.raise_event("number", number, idempotency_key=str(number))
            await asyncio.sleep(1.0)
        assert await result(handle) == [1, 2, 3]


@virtual
async def test_a_crash_before_messages_are_marked_does_not_bring_them_to_the_next_execution() -> None:
    """The record shows the next execution already; the event that ended the one before is not marked."""
    registry, store = Registry(), MemoryStore()
    orchestrator = eternal(registry, 2)
    hub = make_hub(store, registry)
    async with hub:
        async with hub.worker():
            handle = await hub.start(orchestrator, [], instance_id="eternal")
            await handle.raise_event("number", 1, idempotency_key="1")
            await until(lambda: store.records["eternal"].rev == 2 and not store.inbox)
        unmark(store)
        async with hub.worker():
            await handle.raise_event("number", 2)
            assert await result(handle) == [1, 2]


def unmark(store: MemoryStore) -> None:
    """Take back the last step of settling, and the first turn of the execution that followed: it never happened."""
    for delivery in store.messages.values():
        delivery.consumed_at = None
        store.inbox.setdefault(delivery.message.instance_id, {})[delivery.message.message_id] = delivery.message
    for history in store.history.values():
        for key in [key for key in history if key[0].endswith(".1")]:
            del history[key]
    for record in list(store.records.values()):
        store.put_record(replace(record, status=RuntimeStatus.PENDING, due_at=0))


@virtual
async def test_a_message_that_is_settled_after_it_was_taken_in_is_not_new_to_the_next_execution() -> None:
    """It was handed over in memory; its sender's turn is settled by another worker, after its receiver's."""
    registry, store = Registry(), MemoryStore()
    receiver = eternal(registry, 2)

    @registry.orchestrator
    async def sender(ctx: OrchestrationContext) -> None:
        ctx.send_event("a receiver", "number", 1)

    backend, first = picky_hub(store, registry)
    second = make_hub(store, registry)
    async with second:
        async with first.worker():
            handle = await first.start(receiver, [], instance_id="a receiver")
            await until(lambda: has(store, "a receiver", ev.OrchestratorStarted))
            backend.refuses = settles(ev.EventSent)
            await first.start(sender, instance_id="the sender")
            await until(lambda: has(store, "a receiver", ev.ContinueAsNew))
            await abandon(first)
        async with second.worker():
            await until(lambda: store.records["the sender"].status.is_terminal)
            await asyncio.sleep(60)
            await second.get(handle.instance_id).raise_event("number", 2)
            assert await result(second.get(handle.instance_id)) == [1, 2]


# --- in order ------------------------------------------------------------------------------


@virtual
async def test_what_comes_from_the_store_is_not_overtaken_in_memory() -> None:
    registry, store = Registry(), MemoryStore()

    @registry.orchestrator
    async def receiver(ctx: OrchestrationContext) -> list[int]:
        await ctx.wait_for_external_event("poke")
        return [await ctx.wait_for_external_event("number", int) for _ in range(2)]

    @registry.orchestrator
    async def sender(ctx: OrchestrationContext) -> None:
        ctx.send_event("receiver", "number", 1)
        await ctx.wait_for_external_event("go")
        ctx.send_event("receiver", "number", 2)

    backend, hub = picky_hub(store, registry)
    async with hub.worker():
        handle = await hub.start(receiver, instance_id="receiver")
        await until(lambda: store.records["receiver"].rev == 1)
        instances_of(hub).drop(instances_of(hub).get("receiver"))  # as the cache does when it is full
        backend.refuses = settles(ev.EventSent)
        await hub.start(sender, instance_id="sender")
        await handle.raise_event("poke")
        await until(lambda: has(store, "receiver", ev.EventRaised))
        await hub.get("sender").raise_event("go")
        await until(lambda: has(store, "sender", ev.ExecutionCompleted))
        backend.refuses = lambda commit: False
        assert await result(handle) == [1, 2]


@virtual
async def test_executions_of_one_moment_are_told_apart_by_their_times() -> None:
    """What several executions send within a microsecond is in order; nor does time go back with a worker's clock."""
    registry, store, ahead = Registry(), MemoryStore(), [10_000_000]

    @registry.orchestrator
    async def eleven(ctx: OrchestrationContext, seen: list[int]) -> list[int]:
        ahead[0] = 0
        ctx.send_event("receiver", "number", len(seen))
        seen = [*seen, int(ctx.now.timestamp() * 1_000_000)]
        if len(seen) <= 10:
            ctx.continue_as_new(seen)
        return seen

    @registry.orchestrator
    async def receiver(ctx: OrchestrationContext) -> list[int]:
        return [await ctx.wait_for_external_event("number", int) for _ in range(11)]

    hub = TaskHub(MemoryBackend(store), settings=SETTINGS, clock=lambda: virtual_clock() + ahead[0])
    hub.include(registry)
    async with hub.worker():
        times = await result(await hub.start(eleven, []))
        assert times == sorted(set(times))
        handle = await hub.start(receiver, instance_id="receiver")
        await until(lambda: store.records["receiver"].rev == 1)
    async with hub:  # nobody is there to hand anything over: all comes from the store
        sent = [m for d in store.messages.values() if (m := d.message).instance_id == "receiver"]
    assert [m.event.input for m in sorted(sent, key=lambda m: (m.sent_at, m.message_id))] == [  # type: ignore[union-attr]
        str(number) for number in range(11)
    ]
    assert handle.instance_id == "receiver"


# --- nothing is lost -------------------------------------------------------------------------


@virtual
async def test_an_answer_to_what_another_owner_asked_is_not_refused() -> None:
    """A write of a dead worker comes late: the copy in memory does not know the question that it asked."""
    registry, store = Registry(), MemoryStore()

    @registry.orchestrator
    async def child(ctx: OrchestrationContext) -> int:
        raise AssertionError("its answer is there already")

    @registry.orchestrator
    async def parent(ctx: OrchestrationContext) -> int:
        await ctx.wait_for_external_event("go")
        return await ctx.call_sub_orchestrator(child, instance_id="child")

    hub, other = make_hub(store, registry), MemoryBackend(store)
    await other.open(4)
    async with hub.worker():
        handle = await hub.start(parent, instance_id="parent")
        await until(lambda: store.records["parent"].rev == 1)
        record, now = store.records["parent"], virtual_clock()
        went_on: tuple[ev.HistoryEvent, ...] = (
            ev.EventRaised(now, "go", "null", "go"),
            ev.OrchestratorStarted(now),
            ev.SubOrchestrationInstanceCreated(now, 1, "child", "child", "[]"),
            ev.OrchestratorCompleted(now),
        )
        checkpoint = Checkpoint("parent", record.execution_id, 1, 2, "late", went_on)
        commit = Commit(checkpoint, replace(record, rev=2))
        assert list(await other.commit([commit])) == [CommitOutcome.COMMITTED]
        answer = ev.SubOrchestrationInstanceCompleted(now, 1, "5")
        await other.send([Message("answer", "parent", record.partition, now, answer, record.execution_id)])
        assert await result(handle) == 5


@virtual
async def test_a_grant_that_comes_twice_does_not_give_the_locks_back() -> None:
    """The worker dies before the grant is marked; its successor finds it in history and in the inbox."""
    registry, store = Registry(), MemoryStore()
    counter = EntityId("counter", "a")

    @registry.entity
    class Counter:
        value: int = 0

        def add(self) -> int:
            self.value += 1
            return self.value

    @registry.orchestrator
    async def holder(ctx: OrchestrationContext) -> list[int]:
        async with ctx.lock(counter):
            before = await ctx.call_entity(Counter.add, "a")
            await ctx.wait_for_external_event("go")
            return [before, await ctx.call_entity(Counter.add, "a")]

    @registry.orchestrator
    async def other(ctx: OrchestrationContext) -> int:
        return await ctx.call_entity(Counter.add, "a")

    backend, first = picky_hub(store, registry)
    second = make_hub(store, registry)
    backend.refuses = lambda commit: type(commit.checkpoint.events[0]) is ev.EntityLockGranted
    async with second:
        async with first.worker():
            handle = await first.start(holder, instance_id="holder")
            await until(lambda: has(store, "holder", ev.EntityLockGranted) and bool(store.inbox.get("holder")))
            await abandon(first)
        async with second.worker():
            waiting = await second.start(other)
            await asyncio.sleep(60)
            await second.get(handle.instance_id).raise_event("go")
            assert await result(second.get(handle.instance_id)) == [1, 2]
            assert await result(waiting) == 3


class UnmarkingBackend(MemoryBackend):
    """What a worker leaves that dies before it marks the grant of a lock, and after all else that the turn led to."""

    async def settle(self, commits: Sequence[Commit]) -> None:
        grants = [type(commit.checkpoint.events[0]) is ev.EntityLockGranted for commit in commits]
        pairs = zip(commits, grants, strict=True)
        await super().settle([replace(commit, consumed=()) if grant else commit for commit, grant in pairs])


@pytest.mark.parametrize("ahead", [1, 5000])
@virtual
async def test_a_grant_that_is_not_marked_keeps_nothing_from_being_read(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grant stays in the inbox, ahead of all else, until the end."""
    monkeypatch.setattr("durable.worker.mailboxes.MAX_MAILBOX", ahead)
    registry, store = Registry(), MemoryStore()

    @registry.entity
    class Door:
        def look(self) -> str:
            return "open"

    @registry.orchestrator
    async def holder(ctx: OrchestrationContext) -> list[str]:
        async with ctx.lock(EntityId("door", "front")):
            seen = [await ctx.call_entity(Door.look, "front")]
            return [*seen, *[await ctx.wait_for_external_event("go", str) for _ in range(3)]]

    hub, second = TaskHub(UnmarkingBackend(store), settings=SETTINGS, clock=virtual_clock), make_hub(store, registry)
    hub.include(registry)
    async with second:
        async with hub.worker():
            await hub.start(holder, instance_id="holder")
            await until(lambda: has(store, "holder", ev.EntityOperationCompleted))
            await until(lambda: store.records["holder"].rev == 3)
            await abandon(hub)
        handle = second.get("holder")
        for word in ("on", "and", "on"):
            await handle.raise_event("go", word)
        async with second.worker():
            assert await result(handle) == ["open", "on", "and", "on"]
            await until(lambda: not store.inbox)


@virtual
async def test_what_a_dead_worker_had_sent_comes_with_the_take_over() -> None:
    """Not with the next scan of the whole store."""
    registry, store = Registry(), MemoryStore()

    @registry.orchestrator
    async def receiver(ctx: OrchestrationContext) -> int:
        return await ctx.wait_for_external_event("number", int)

    @registry.orchestrator
    async def sender(ctx: OrchestrationContext) -> None:
        await ctx.wait_for_external_event("go")
        ctx.send_event("a receiver", "number", 1)

    backend, first = picky_hub(store, registry, cache_instances=1)
    second = make_hub(store, registry)
    backend.refuses = settles(ev.EventSent)
    async with second:
        async with first.worker():
            await first.start(receiver, instance_id="a receiver")
            await first.start(sender, instance_id="the sender")
            await until(lambda: store.records["the sender"].rev == 1)
            await first.get("the sender").raise_event("go")
            await until(lambda: has(store, "the sender", ev.EventSent))
            await abandon(first)
        async with second.worker():
            assert await result(second.get("a receiver")) == 1


@virtual
async def test_a_message_that_comes_twice_is_not_marked_before_its_turn_is_settled() -> None:
    """It ends the instance. Marked while the record is not updated, nothing would show that there is work to do."""
    registry, store, gate = Registry(), MemoryStore(), asyncio.Event()

    class GatedBackend(PickyBackend):
        async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
            if any(map(settles(ev.EventRaised), commits)):
                await gate.wait()
            return await super().commit(commits)

    @registry.orchestrator
    async def receiver(ctx: OrchestrationContext) -> int:
        return await ctx.wait_for_external_event("number", int)

    backend = GatedBackend(store)
    backend.refuses = settles(ev.EventRaised)
    first, second = TaskHub(backend, settings=SETTINGS, clock=virtual_clock), make_hub(store, registry)
    first.include(registry)
    async with second:
        async with first.worker():
            handle = await first.start(receiver, instance_id="receiver")
            for _ in range(2):
                await handle.raise_event("number", 1, idempotency_key="1")
                await asyncio.sleep(1.0)
            gate.set()
            await asyncio.sleep(1.0)
            assert has(store, "receiver", ev.ExecutionCompleted)
            await abandon(first)
        async with second.worker():
            assert await result(second.get("receiver")) == 1


# --- the end from outside ---------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("begun", [True, False], ids=["running", "pending"])
async def test_a_crash_after_a_termination_does_not_park_the_instance(
    begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    registry, store = Registry(), MemoryStore()

    @registry.orchestrator
    async def waiting(ctx: OrchestrationContext) -> None:
        await asyncio.sleep(3600)

    backend, first = picky_hub(store, registry)
    second = make_hub(store, registry)
    backend.refuses = settles(ev.ExecutionTerminated)
    async with second:
        if not begun:
            await second.start(waiting, instance_id="one")
            await second.get("one").terminate("enough")
        async with first.worker():
            if begun:
                await first.start(waiting, instance_id="one")
                await first.get("one").terminate("enough")
            await until(lambda: has(store, "one", ev.ExecutionTerminated))
            await abandon(first)
        async with second.worker():
            await until(lambda: store.records["one"].status is RuntimeStatus.TERMINATED, FAILOVER)
            history = await second.get("one").history()
    assert type(history[0]) is ev.ExecutionStarted
    assert not [record for record in caplog.records if "parked" in record.message]


@virtual
async def test_a_stranger_that_has_the_id_of_a_child_is_not_ended_with_its_parent() -> None:
    registry, store = Registry(), MemoryStore()

    @registry.orchestrator
    async def stranger(ctx: OrchestrationContext) -> str:
        await ctx.wait_for_external_event("go")
        return "alive"

    @registry.orchestrator
    async def parent(ctx: OrchestrationContext) -> str:
        return await stranger.options(instance_id="taken")()

    backend, hub = picky_hub(store, registry)
    async with hub.worker():
        alive = await hub.start(stranger, instance_id="taken")
        await until(lambda: store.records["taken"].rev == 1)
        backend.refuses = settles(ev.SubOrchestrationInstanceCreated)
        ended = await hub.start(parent, instance_id="parent")
        await ended.terminate()
        await until(lambda: has(store, "parent", ev.ExecutionTerminated))
        backend.refuses = lambda commit: False
        await until(lambda: store.records["parent"].status.is_terminal)
        await asyncio.sleep(60)
        await alive.raise_event("go")
        assert await result(alive) == "alive"


# --- nothing is left ----------------------------------------------------------------------------


@virtual
async def test_the_history_of_a_former_execution_goes_though_its_worker_dies() -> None:
    registry, store = Registry(), MemoryStore()
    orchestrator = eternal(registry, 4)
    backend, first = picky_hub(store, registry, keep_executions=1)
    second = make_hub(store, registry, keep_executions=1)
    backend.refuses = lambda commit: bool(commit.drops)
    async with second:
        async with first.worker():
            await first.start(orchestrator, [], instance_id="eternal")
            for number in (1, 2):
                await first.get("eternal").raise_event("number", number)
                await asyncio.sleep(0.01)
            await until(lambda: any(key[0].endswith(".1") for key in store.history["eternal"]))
            await until(lambda: sum(map(continues, store.history["eternal"].values())) == 2)
            await abandon(first)
        async with second.worker():
            for number in (3, 4):
                await second.get("eternal").raise_event("number", number)
                await asyncio.sleep(0.01)
            assert await result(second.get("eternal")) == [1, 2, 3, 4]
    assert sorted({execution_id.partition(".")[2] for execution_id, _ in store.history["eternal"]}) == ["2", "3"]


def continues(checkpoint: Checkpoint) -> bool:
    return any(type(event) is ev.ContinueAsNew for event in checkpoint.events)


@virtual
async def test_an_entity_whose_worker_fails_is_dropped_quietly() -> None:
    """Its batch ends when nothing can be committed any more: the worker's failure is told, and nothing else."""
    registry, store, go = Registry(), MemoryStore(), asyncio.Event()
    reported: list[dict[str, Any]] = []

    @registry.entity
    class Slow:
        value: int = 0

        async def add(self) -> None:
            await go.wait()

    class BrokenBackend(MemoryBackend):
        async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
            raise RuntimeError("the store is broken")

    @registry.orchestrator
    async def nothing(ctx: OrchestrationContext) -> None: ...

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    hub = TaskHub(BrokenBackend(store), settings=SETTINGS, clock=virtual_clock)
    hub.include(registry)

    async def use_it() -> None:
        async with hub.worker():
            await hub.signal_entity(Slow.add, "one")
            await until(lambda: instances_of(hub).get("@slow@one") is not None)
            starting = asyncio.ensure_future(hub.start(nothing))
            await until(lambda: hub._worker is not None and hub._worker.failure is not None)
            go.set()
            await asyncio.sleep(1.0)
            starting.cancel()

    with pytest.raises(RuntimeError, match="the store is broken"):
        await use_it()
    assert reported == []


def instances_of(hub: TaskHub) -> Any:
    assert hub._worker is not None
    return hub._worker._instances


@virtual
async def test_what_is_still_being_settled_here_is_not_replayed_for_a_hint() -> None:
    """Somebody wakes an instance that has ended a moment ago; its record does not show that yet."""
    registry, store = Registry(), MemoryStore()
    runs: list[str] = []

    @registry.orchestrator
    async def main(ctx: OrchestrationContext) -> int:
        runs.append(ctx.instance_id)
        return 1

    backend, hub = picky_hub(store, registry)
    async with hub.worker():
        backend.refuses = settles(ev.ExecutionCompleted)
        handle = await hub.start(main, instance_id="one")
        await until(lambda: has(store, "one", ev.ExecutionCompleted))
        assert hub._worker is not None
        hub._worker.hint(Hint("one", "a message of somebody else"))
        await asyncio.sleep(1)
        backend.refuses = PickyBackend.refuses
        assert await result(handle) == 1
    assert runs == ["one"]


def test_while_messages_are_unread_all_that_a_former_owner_took_in_may_be_unmarked() -> None:
    """Else the next execution took in again what the former owner had no time to mark (seed 55592)."""
    instance = LiveInstance(InstanceRecord("one", "start", "listener", 0, 1, 1, "[]"), None, 1)
    instance.absorb([ev.EventRaised(1, "number", "1", "former"), ev.EventRaised(1, "number", "2", "here")])
    instance.done.add("here")
    assert instance.left_unmarked() == ()  # all that waits was read: it is not among it
    instance.has_backlog = True
    assert instance.left_unmarked() == ("former",)
