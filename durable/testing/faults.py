"""FaultyBackend: a backend that fails, lags and crashes as a plan tells it.

Rule of this file: it injects only what the port allows a real store to do. An operation may fail
with nothing done, with part of it done, with all of it done, or with all of it done later;
the caller sees BackendUnavailable each time and cannot tell. A crash ends this handle, as a
killed process would: the store keeps what was applied, and nothing comes back or goes out any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from types import coroutine
from typing import Any, TypeAlias, TypeVar, cast

from durable.backend import (
    Annotation,
    Backend,
    BackendUnavailable,
    Checkpoint,
    Commit,
    CommitOutcome,
    Grouping,
    Hint,
    InstanceRecord,
    Message,
    Page,
    Query,
    Start,
    Topology,
    Wakeup,
    WorkerInfo,
)
from durable.tasks import Claims, QueueBackend, QueuedTask, with_queues
from durable.testing.memory_store import start_of

T = TypeVar("T")
Work: TypeAlias = Callable[[], Awaitable[T]]


class SimulatedCrash(Exception):  # noqa: N818 - not an error of the store: the process is gone
    """This handle's process is dead: neither this operation nor any later one comes back."""


class Fault(Enum):
    """What happens to one operation."""

    NONE = "none"
    FAIL_BEFORE = "fail before"  # nothing applied
    FAIL_PARTWAY = "fail partway"  # some of the batch applied
    FAIL_AFTER = "fail after"  # applied, the answer lost
    FAIL_LATER = "fail later"  # applied some loop turns after the caller was told of the failure
    CRASH_BEFORE = "crash before"
    CRASH_PARTWAY = "crash partway"
    CRASH_AFTER = "crash after"

    @property
    def is_crash(self) -> bool:
        return self in _CRASHES


_CRASHES = frozenset({Fault.CRASH_BEFORE, Fault.CRASH_PARTWAY, Fault.CRASH_AFTER})
_FAILURES = (Fault.FAIL_BEFORE, Fault.FAIL_PARTWAY, Fault.FAIL_AFTER, Fault.FAIL_LATER)


@dataclass(frozen=True, slots=True)
class Step:
    """What a plan answers for one operation.

    ``turns`` is how many turns of the event loop pass before the store is reached (others overtake),
    ``turns_back`` how many before the answer arrives, ``part`` which share of a batch is done by a
    fault partway.
    """

    fault: Fault = Fault.NONE
    turns: int = 0
    turns_back: int = 0
    part: float = 0.5


Plan: TypeAlias = Callable[[str], Step]
"""Called with the name of each operation before it begins. For ``watch`` it is asked per hint: any fault loses it."""


def random_plan(
    seed: int, *, failures: float = 0.1, crashes: float = 0.0, max_turns: int = 3, spare: Collection[str] = ()
) -> Plan:
    """A plan that fails and crashes with these probabilities, repeatable by its seed; ``spare`` are never failed."""
    random = Random(seed)

    def plan(operation: str) -> Step:
        chance, fault = random.random(), Fault.NONE
        if operation not in spare:
            if chance < crashes:
                fault = random.choice(sorted(_CRASHES, key=lambda crash: crash.value))
            elif chance < crashes + failures:
                fault = random.choice(_FAILURES)
        return Step(fault, random.randint(0, max_turns), random.randint(0, max_turns), random.random())

    return plan


def scripted_plan(steps: Mapping[str, Iterable[Step]]) -> Plan:
    """A plan that answers each operation with its steps, one after another, and then with no fault."""
    left = {operation: iter(script) for operation, script in steps.items()}
    return lambda operation: next(left.get(operation, iter(())), Step())


class FaultyBackend:
    """Wraps ``inner`` so that each operation meets what ``plan`` says; ``close`` always works.

    ``on_crash`` is called once, with the operation's name, before the first SimulatedCrash is raised.
    """

    def __init__(self, inner: Backend, plan: Plan, *, on_crash: Callable[[str], None] | None = None) -> None:
        self.inner = inner
        self.settles_on_commit = inner.settles_on_commit
        self.crashed = False
        self._plan = plan
        self._on_crash = on_crash
        self._later: set[asyncio.Task[None]] = set()

    async def _run(self, operation: str, whole: Work[T], parts: Sequence[Work[Any]] = ()) -> T:
        """Do ``whole`` as the plan says; ``parts`` are its steps, each of which may be the last before a fault."""
        self._check_alive(operation)
        step = self._plan(operation)
        await _pass_turns(step.turns)
        self._check_alive(operation)  # it may have died while this one was on its way
        match step.fault:
            case Fault.NONE:
                result = await whole()
                await _pass_turns(step.turns_back)
                self._check_alive(operation)
                return result
            case Fault.FAIL_LATER:
                self._later.add(asyncio.create_task(_do_later(whole, 1 + step.turns_back)))
            case Fault.FAIL_AFTER | Fault.CRASH_AFTER:
                await whole()
            case Fault.FAIL_PARTWAY | Fault.CRASH_PARTWAY:
                for part in parts[: round(len(parts) * step.part)]:
                    await part()
        if step.fault.is_crash:
            self._crash(operation)
        raise BackendUnavailable(f"injected into {operation}: {step.fault.value}")

    def _check_alive(self, operation: str) -> None:
        if self.crashed:
            raise SimulatedCrash(f"{operation} on a handle that has crashed")

    def _crash(self, operation: str) -> None:
        if not self.crashed:
            self.crashed = True
            if self._on_crash is not None:
                self._on_crash(operation)
        self._check_alive(operation)

    async def open(self, partition_count: int) -> int:
        return await self._run("open", lambda: self.inner.open(partition_count))

    async def close(self) -> None:
        """Wait for what was to be applied later, and close ``inner``."""
        try:
            await asyncio.gather(*self._later)
        finally:
            self._later.clear()
            await self.inner.close()

    # --- instances and history

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        create = self.inner.create_instances
        return await self._run("create_instances", lambda: create(records), _each(create, records))

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        return await self._run("commit", lambda: self.inner.commit(commits), self._parts_of_commit(commits))

    def _parts_of_commit(self, commits: Sequence[Commit]) -> list[Work[Any]]:
        parts: list[Work[Any]] = []
        for commit in commits:
            if commit.create and not self.settles_on_commit:
                parts += _each(self.inner.create_instances, [start_of(commit.record)])
            parts += _each(self.inner.commit, [commit])
        return parts

    async def settle(self, commits: Sequence[Commit]) -> None:
        await self._run("settle", lambda: self.inner.settle(commits), self._parts_of_settle(commits))

    def _parts_of_settle(self, commits: Sequence[Commit]) -> list[Work[Any]]:
        if self.settles_on_commit:
            return []
        starts = [start for commit in commits for start in commit.starts]
        messages = [message for commit in commits for message in commit.messages]
        updates = [replace(commit, starts=(), messages=(), drops=(), consumed=()) for commit in commits]
        drops = [
            replace(update, record=replace(update.record, rev=0), drops=commit.drops)  # rev 0 leaves the record alone
            for update, commit in zip(updates, commits, strict=True)
            if commit.drops
        ]
        consumptions = [replace(commit, starts=(), messages=(), drops=()) for commit in commits if commit.consumed]
        steps = [*_each(self._start, starts), *_each(self.inner.send, messages)]
        return steps + _each(self.inner.settle, [*drops, *updates, *consumptions])

    async def _start(self, starts: Sequence[Start]) -> None:
        taken = await self.inner.create_instances([start.record for start in starts])
        await self.inner.send(
            [
                start.otherwise
                for start, stranger in zip(starts, taken, strict=True)
                if stranger is not None and start.otherwise is not None
            ]
        )

    async def load(
        self, instance_id: str, execution_id: str, *, from_seq: int = 0, limit: int = 100
    ) -> Sequence[Checkpoint]:
        return await self._run(
            "load", lambda: self.inner.load(instance_id, execution_id, from_seq=from_seq, limit=limit)
        )

    async def get(self, instance_ids: Sequence[str]) -> Sequence[InstanceRecord | None]:
        return await self._run("get", lambda: self.inner.get(instance_ids))

    async def query(self, query: Query) -> Page:
        return await self._run("query", lambda: self.inner.query(query))

    async def count(self, query: Query, by: Grouping) -> Mapping[str, int]:
        return await self._run("count", lambda: self.inner.count(query, by))

    async def annotate(self, annotations: Sequence[Annotation]) -> None:
        annotate = self.inner.annotate
        await self._run("annotate", lambda: annotate(annotations), _each(annotate, annotations))

    async def purge(self, instance_ids: Sequence[str]) -> int:
        purge = self.inner.purge
        return await self._run("purge", lambda: purge(instance_ids), _each(purge, instance_ids))

    async def set_hold(self, instance_id: str, reason: str | None) -> bool:
        return await self._run("set_hold", lambda: self.inner.set_hold(instance_id, reason))

    async def expired(self, before: int, limit: int) -> Sequence[str]:
        return await self._run("expired", lambda: self.inner.expired(before, limit))

    # --- messages

    async def send(self, messages: Sequence[Message]) -> None:
        send = self.inner.send
        await self._run("send", lambda: send(messages), _each(send, messages))

    async def receive(self, instance_ids: Sequence[str], limit: int | None = None) -> Sequence[Message]:
        return await self._run("receive", lambda: self.inner.receive(instance_ids, limit))

    async def consume(self, messages: Sequence[Message], at: int) -> None:
        def consume(some: Sequence[Message]) -> Awaitable[None]:
            return self.inner.consume(some, at)

        await self._run("consume", lambda: consume(messages), _each(consume, messages))

    # --- finding work

    async def runnable(
        self,
        partitions: Collection[int],
        until: int,
        *,
        include_busy: bool = True,
        after: str | None = None,
        limit: int = 1000,
    ) -> Sequence[Wakeup]:
        return await self._run(
            "runnable",
            lambda: self.inner.runnable(partitions, until, include_busy=include_busy, after=after, limit=limit),
        )

    async def watch(self) -> AsyncIterator[Hint]:
        self._check_alive("watch")
        async with aclosing(cast(AsyncGenerator[Hint, None], self.inner.watch())) as hints:
            async for hint in hints:
                self._check_alive("watch")
                if self._plan("watch").fault is Fault.NONE:
                    yield hint

    # --- workers and leases

    async def heartbeat(self, worker: WorkerInfo, now: int, ttl: int) -> Topology:
        return await self._run("heartbeat", lambda: self.inner.heartbeat(worker, now, ttl))

    async def topology(self, now: int) -> Topology:
        return await self._run("topology", lambda: self.inner.topology(now))

    async def acquire_partitions(
        self, worker_id: str, partitions: Collection[int], now: int, ttl: int, *, dead: Collection[str] = ()
    ) -> Collection[int]:
        def acquire(some: Collection[int]) -> Awaitable[Collection[int]]:
            return self.inner.acquire_partitions(worker_id, some, now, ttl, dead=dead)

        return await self._run("acquire_partitions", lambda: acquire(partitions), _each(acquire, partitions))

    async def release_partitions(self, worker_id: str, partitions: Collection[int]) -> None:
        def release(some: Collection[int]) -> Awaitable[None]:
            return self.inner.release_partitions(worker_id, some)

        await self._run("release_partitions", lambda: release(partitions), _each(release, partitions))

    async def remove_worker(self, worker_id: str) -> None:
        await self._run("remove_worker", lambda: self.inner.remove_worker(worker_id))

    # --- activity queues

    @property
    def _queues(self) -> QueueBackend:
        return with_queues(self.inner, "a queue behind injected faults")

    async def offer_tasks(self, tasks: Sequence[QueuedTask]) -> None:
        offer = self._queues.offer_tasks
        await self._run("offer_tasks", lambda: offer(tasks), _each(offer, tasks))

    async def claim_tasks(self, *arguments: Any, **options: Any) -> Claims:
        return await self._run("claim_tasks", lambda: self._queues.claim_tasks(*arguments, **options))

    async def renew_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str], now: int, ttl: int) -> set[str]:
        return await self._run("renew_tasks", lambda: self._queues.renew_tasks(queue, worker_id, task_ids, now, ttl))

    async def release_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        await self._run("release_tasks", lambda: self._queues.release_tasks(queue, worker_id, task_ids))

    async def finish_tasks(self, queue: str, worker_id: str, task_ids: Sequence[str]) -> None:
        await self._run("finish_tasks", lambda: self._queues.finish_tasks(queue, worker_id, task_ids))

    async def withdraw_tasks(self, queue: str, task_ids: Sequence[str]) -> None:
        await self._run("withdraw_tasks", lambda: self._queues.withdraw_tasks(queue, task_ids))

    # --- large values and upkeep

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        await self._run("put_payloads", lambda: self.inner.put_payloads(instance_id, payloads))

    async def get_payloads(self, instance_id: str, keys: Collection[str]) -> Mapping[str, bytes]:
        return await self._run("get_payloads", lambda: self.inner.get_payloads(instance_id, keys))

    async def sweep(self, before: int) -> int:
        return await self._run("sweep", lambda: self.inner.sweep(before))


def _each(operation: Callable[[Sequence[Any]], Awaitable[Any]], items: Iterable[Any]) -> list[Work[Any]]:
    """A batch operation as one operation per item."""
    return [lambda item=item: operation([item]) for item in items]  # type: ignore[misc]


@coroutine
def _pass_turns(turns: int) -> Generator[None, None, None]:
    for _ in range(turns):
        yield  # as asyncio.sleep(0) does, and faster: simulations come here twice for each operation


async def _do_later(work: Work[Any], turns: int) -> None:
    await _pass_turns(turns)
    await work()
