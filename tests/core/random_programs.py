"""Random orchestrators: trees of what code can await, and an interpreter that runs such a tree.

Rule of this file: it knows neither engine nor model. A tree is plain JSON, ``(kind, label, ...)``; the
interpreter asks whatever context it is given, and logs each beginning and each outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from durable.core.ids import EntityId
from durable.core.retry import RetryPolicy

Node: TypeAlias = Sequence[Any]
Choose: TypeAlias = Callable[[int], int]
"""Picks a number from 0 up to, and without, the one given. Zero is the plainest choice."""

SECONDS = (1, 0, 0.25, 0.1, 2.5, 10)
NAMES = ("go", "stop")
ENDS = ("call", "status", "sleep", "fail", "continue_as_new", "continue_as_new")
CALLS = ("call", "call", "retry", "child", "entity", "sleep", "timer", "event")
LEAVES = (
    *(CALLS * 3),
    *("status", "send", "signal", "detached", "patched", "random", "pause"),
    *("put", "get", "set", "wait", "fail", "continue_as_new"),
)
BRANCHES = (
    *("seq", "gather", "group", "wait_for", "timeout", "shield", "guard", "cleanup", "background"),
    *("first", "completed", "lock", "semaphore", "section", "generator"),
)


def random_program(choose: Choose, *, depth: int = 5, leaves: int = 20) -> Node:
    """A tree of at most that depth; once it has so many leaves it grows no more branches."""
    return _Maker(choose, leaves).top(depth)


class _Maker:
    """Makes nodes; each gets a label of its own."""

    def __init__(self, choose: Choose, leaves: int) -> None:
        self._choose = choose
        self._leaves = leaves
        self._label = 0

    def top(self, depth: int) -> Node:
        parts = [self._tolerated(self.node(depth)) for _ in range(self.one_of(2, 1, 3))]
        return "seq", 0, [*parts, self._leaf(self.one_of(*ENDS), -1)]

    def _tolerated(self, node: Node) -> Node:
        self._label += 1
        return "tolerate", self._label, node

    def node(self, depth: int) -> Node:
        self._label += 1
        label = self._label
        if depth == 0 or self._leaves <= 0 or (depth < 5 and self._choose(5) < 2):
            self._leaves -= 1
            return self._leaf(self.one_of(*LEAVES), label)
        return self._branch(self.one_of(*BRANCHES), label, depth - 1)

    def one_of(self, *options: Any) -> Any:
        return options[self._choose(len(options))]

    def _seconds(self) -> float:
        seconds: float = self.one_of(*SECONDS)
        return seconds

    def _limit(self) -> float | None:
        return self.one_of(self._seconds(), None)  # type: ignore[no-any-return]

    def _leaf(self, kind: str, label: int) -> Node:
        way = self.one_of("inside", "future", "lazy")
        match kind:
            case "call":
                return kind, label, way
            case "retry":
                return kind, label, way, self.one_of(2, 1, 3), self.one_of(0.0, 0.5)
            case "child":
                return kind, label, way, self.one_of("terminate", "cancel", "abandon")
            case "entity":
                return kind, label, way, self.one_of("a", "b")
            case "timer":
                return kind, label, way, self._seconds()
            case "event":
                return kind, label, way, self.one_of(*NAMES), self._limit(), self.one_of(None, -1)
            case "sleep":
                return kind, label, self._seconds()
            case "signal":
                return kind, label, self.one_of("a", "b")
            case "put" | "set":
                return kind, label, self._choose(2)
            case "get" | "wait":
                return kind, label, self._choose(2), self._limit()
            case "continue_as_new":
                return kind, label, self.one_of(True, False)
            case _:
                return kind, label

    def _branch(self, kind: str, label: int, depth: int) -> Node:
        match kind:
            case "seq" | "group":
                return kind, label, self._several(depth)
            case "gather":
                return kind, label, self._several(depth), self.one_of(False, True)
            case "first":
                when = self.one_of(asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED)
                return kind, label, self._several(depth), when, self._limit(), self.one_of("cancel", "leave")
            case "completed":
                return kind, label, self._several(depth), 1 + self._choose(3), self._limit()
            case "generator":
                return kind, label, self._several(depth), 1 + self._choose(3)
            case "wait_for" | "timeout":
                return kind, label, self.node(depth), self._seconds()
            case "shield":
                return kind, label, self.node(depth)
            case "guard":
                return kind, label, self.node(depth), self.node(depth), self.node(depth)
            case "cleanup":
                return kind, label, self.node(depth), self.node(depth), self.one_of("raise", "swallow")
            case "background":
                return kind, label, self.node(depth), self.node(depth), self.one_of("await", "cancel", "leave")
            case "section":
                return kind, label, self.one_of("a", "b", "ab"), self.node(depth)
            case _:
                return kind, label, self._choose(2), self.node(depth)

    def _several(self, depth: int) -> list[Node]:
        nodes = [self.node(depth) for _ in range(self.one_of(2, 1, 3, 4))]
        return [self._tolerated(node) if self._choose(3) else node for node in nodes]


@dataclass
class Log:
    """What a program did: ``entries`` is the same on every loop, ``orders`` (of sets of tasks) at every replay."""

    entries: list[Any] = field(default_factory=list)
    orders: list[Any] = field(default_factory=list)


def describe(error: BaseException) -> Any:
    """What of an error must be the same in the engine and in the model."""
    if isinstance(error, BaseExceptionGroup):
        return [type(error).__name__, *map(describe, error.exceptions)]
    details = getattr(error, "details", None)
    return [type(error).__name__, getattr(error, "task_id", None), details.message if details else None]


class Interpreter:
    """Runs a tree by a context ``ctx``; ``step`` and ``child`` are the definitions that it calls."""

    def __init__(self, ctx: Any, step: Any, child: Any, log: Log) -> None:
        self.ctx = ctx
        self.step = step
        self.child = child
        self.log = log
        self.queues: list[asyncio.Queue[int]] = [asyncio.Queue(), asyncio.Queue(1)]
        self.events = [asyncio.Event(), asyncio.Event()]
        self.locks = [asyncio.Lock(), asyncio.Lock()]
        self.semaphores = [asyncio.Semaphore(1), asyncio.Semaphore(2)]

    async def run(self, node: Node) -> Any:
        """The outcome of a node, logged."""
        kind, label, *rest = node
        self.note(label, kind)
        start = getattr(self, f"start_{kind}", None)
        try:
            outcome = await (start or getattr(self, f"do_{kind}"))(label, *rest)
        except BaseException as error:
            self.note(label, describe(error))
            raise
        self.note(label, outcome)
        return outcome

    def note(self, *entry: Any) -> None:
        self.log.entries.append([asyncio.get_running_loop().time(), *entry])
        self.ctx.logger.info("%s", entry)

    def branch(self, node: Node) -> Awaitable[Any]:
        """A node to be run beside others: a coroutine, or the bare future or call that it is about."""
        start = getattr(self, f"start_{node[0]}", None)
        bare = start is not None and node[2] != "inside"
        return start(*node[1:]) if start is not None and bare else self.run(node)

    def begin(self, node: Node) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.branch(node))

    # --- what can be awaited; "future" is begun at once, "lazy" when somebody awaits it or makes it a task

    def start_call(self, label: int, way: str) -> Awaitable[Any]:
        return self.step(label) if way == "lazy" else self.ctx.call_activity(self.step, label)  # type: ignore[no-any-return]

    def start_retry(self, label: int, way: str, attempts: int, jitter: float) -> Awaitable[Any]:
        policy = RetryPolicy(max_attempts=attempts, jitter=jitter, timeout=timedelta(seconds=10))
        if way == "lazy":
            return self.step.options(retry=policy)(label)  # type: ignore[no-any-return]
        return self.ctx.call_activity_with_retry(self.step, policy, label)  # type: ignore[no-any-return]

    def start_child(self, label: int, way: str, parent_close: str) -> Awaitable[Any]:
        child = self.child.options(parent_close=parent_close)
        return child(label) if way == "lazy" else self.ctx.call_sub_orchestrator(child, label)  # type: ignore[no-any-return]

    def start_entity(self, label: int, way: str, key: str) -> Awaitable[Any]:
        return self.ctx.call_entity(EntityId("box", key), "take", label)  # type: ignore[no-any-return]

    def start_timer(self, label: int, way: str, seconds: float) -> Awaitable[Any]:
        return self.ctx.create_timer(timedelta(seconds=seconds))  # type: ignore[no-any-return]

    def start_event(
        self, label: int, way: str, name: str, timeout: float | None, default: int | None
    ) -> Awaitable[Any]:
        options = {} if default is None else {"default": default}
        return self.ctx.wait_for_external_event(name, int, timeout=timeout, **options)  # type: ignore[no-any-return]

    # --- leaves ------------------------------------------------------------------------------------

    async def do_sleep(self, label: int, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def do_pause(self, label: int) -> None:
        await asyncio.sleep(0)

    async def do_status(self, label: int) -> None:
        self.ctx.set_custom_status(label)

    async def do_send(self, label: int) -> None:
        self.ctx.send_event("other", "note", label)

    async def do_signal(self, label: int, key: str) -> None:
        self.ctx.signal_entity(EntityId("box", key), "drop", label)

    async def do_detached(self, label: int) -> None:
        self.ctx.start_orchestration(self.child, label)

    async def do_patched(self, label: int) -> Any:
        return self.ctx.patched(f"patch {label % 2}")

    async def do_random(self, label: int) -> Any:
        return self.ctx.random.random()

    async def do_fail(self, label: int) -> None:
        raise ValueError(label)

    async def do_put(self, label: int, which: int) -> None:
        await self.queues[which].put(label)

    async def do_get(self, label: int, which: int, limit: float | None) -> int:
        return await asyncio.wait_for(self.queues[which].get(), limit)

    async def do_set(self, label: int, which: int) -> None:
        self.events[which].set()

    async def do_wait(self, label: int, which: int, limit: float | None) -> bool:
        return await asyncio.wait_for(self.events[which].wait(), limit)

    async def do_continue_as_new(self, label: int, keep_events: bool) -> None:
        self.ctx.continue_as_new(["status", label], keep_events=keep_events)

    # --- branches ------------------------------------------------------------------------------------

    async def do_seq(self, label: int, nodes: Sequence[Node]) -> list[Any]:
        return [await self.run(node) for node in nodes]

    async def do_tolerate(self, label: int, node: Node) -> Any:
        try:
            return await self.run(node)
        except Exception as error:
            return describe(error)

    async def do_gather(self, label: int, nodes: Sequence[Node], return_exceptions: bool) -> list[Any]:
        results = await asyncio.gather(*[self.begin(node) for node in nodes], return_exceptions=return_exceptions)
        return [describe(one) if isinstance(one, BaseException) else one for one in results]

    async def do_group(self, label: int, nodes: Sequence[Node]) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_coroutine(self.branch(node))) for node in nodes]
        return [_outcome(task) for task in tasks]

    async def do_first(self, label: int, nodes: Sequence[Node], when: str, limit: float | None, fate: str) -> list[Any]:
        futures = [self.begin(node) for node in nodes]
        done, pending = await asyncio.wait(futures, timeout=limit, return_when=when)
        self.log.orders.append([[futures.index(one) for one in some] for some in (done, pending)])
        if fate == "cancel":
            given_up = [one for one in futures if one in pending]
            for one in given_up:
                one.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
        return [_outcome(one) for one in futures if one in done]

    async def do_completed(self, label: int, nodes: Sequence[Node], take: int, limit: float | None) -> list[Any]:
        outcomes: list[Any] = []
        futures = [self.begin(node) for node in nodes]
        for _, one in zip(range(take), asyncio.as_completed(futures, timeout=limit), strict=False):
            try:
                outcomes.append(await one)
            except Exception as error:
                outcomes.append(describe(error))
        return outcomes

    async def do_generator(self, label: int, nodes: Sequence[Node], take: int) -> list[Any]:
        async def each() -> AsyncIterator[Any]:
            try:
                for node in nodes:
                    yield await self.run(node)
            finally:
                self.note(label, "closed")
                await asyncio.sleep(0)
                self.note(label, "after closed")

        outcomes: list[Any] = []
        async for outcome in each():
            outcomes.append(outcome)
            if len(outcomes) == take:
                break  # not closed here, but at the end of the execution
        return outcomes

    async def do_wait_for(self, label: int, node: Node, seconds: float) -> Any:
        return await asyncio.wait_for(self.branch(node), seconds)

    async def do_timeout(self, label: int, node: Node, seconds: float) -> Any:
        async with asyncio.timeout(seconds):
            return await self.branch(node)

    async def do_shield(self, label: int, node: Node) -> Any:
        return await asyncio.shield(self.branch(node))

    async def do_guard(self, label: int, node: Node, handler: Node, final: Node) -> Any:
        try:
            return await self.run(node)
        except Exception:
            return await self.run(handler)
        finally:
            await self.run(final)

    async def do_cleanup(self, label: int, node: Node, final: Node, fate: str) -> Any:
        try:
            return await self.run(node)
        except asyncio.CancelledError:
            outcome = await self.run(final)
            if fate == "raise":
                raise
            return outcome

    async def do_background(self, label: int, node: Node, beside: Node, fate: str) -> Any:
        future = self.begin(node)
        outcome = await self.run(beside)
        if fate == "leave":
            return outcome
        if fate == "cancel":
            future.cancel()
        await asyncio.wait([future])
        return [outcome, _outcome(future)]

    async def do_lock(self, label: int, which: int, node: Node) -> Any:
        async with self.locks[which]:
            return await self.run(node)

    async def do_semaphore(self, label: int, which: int, node: Node) -> Any:
        async with self.semaphores[which]:
            return await self.run(node)

    async def do_section(self, label: int, keys: str, node: Node) -> Any:
        async with self.ctx.lock(*[EntityId("box", key) for key in keys]):
            return await self.run(node)


def _coroutine(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    """What a task group takes: a coroutine as it is, and one around a future."""

    async def wait(future: Awaitable[Any]) -> Any:
        return await future

    return awaitable if asyncio.iscoroutine(awaitable) else wait(awaitable)


def _outcome(future: asyncio.Future[Any]) -> Any:
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return future.result() if error is None else describe(error)
