"""Promises of ``watch``: hints of what others change, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from itertools import count
from typing import cast

from durable.backend import Backend, Hint
from durable.testing.conformance.builders import Instance, apply, create, new_message
from durable.testing.conformance.fixtures import ConformanceFixtures

DEADLINE = 15.0
PAUSE = 0.2
INSTANCES = tuple(f"i{number}" for number in range(1000))


async def _hinted(watcher: Backend, change: Callable[[int], Awaitable[None]]) -> Hint:
    """Make changes until ``watcher`` is hinted at one; a hint may be lost, so one change is not enough."""

    async def go_on_changing() -> None:
        for number in count():
            await change(number)
            await asyncio.sleep(PAUSE)

    async def hint() -> Hint:
        async with aclosing(cast(AsyncGenerator[Hint, None], watcher.watch())) as hints:
            return await anext(hints)

    hinted = asyncio.create_task(hint())
    changing = asyncio.create_task(go_on_changing())
    try:
        done, _ = await asyncio.wait({hinted, changing}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        assert done == {hinted}, f"no hint within {DEADLINE} s of many changes: {done}"
        found = hinted.result()
        assert found.instance_id is None or found.instance_id in INSTANCES
        return found
    finally:
        for task in (hinted, changing):
            task.cancel()
        await asyncio.gather(hinted, changing, return_exceptions=True)


class WatchConformance(ConformanceFixtures):
    async def test_a_created_instance_is_hinted_at(self, backend: Backend, other: Backend) -> None:
        async def change(number: int) -> None:
            await create(other, Instance(INSTANCES[number]))

        await _hinted(backend, change)

    async def test_a_changed_instance_is_hinted_at(self, backend: Backend, other: Backend) -> None:
        instance = Instance(INSTANCES[0])
        await create(other, instance)

        async def change(_: int) -> None:
            await apply(other, instance.turn())

        await _hinted(backend, change)

    async def test_a_sent_message_is_hinted_at(self, backend: Backend, other: Backend) -> None:
        async def change(number: int) -> None:
            await other.send([new_message(f"m{number}", INSTANCES[number])])

        # One without the message would pass for a change of the record, of which the instance's worker knows.
        hint = await _hinted(backend, change)
        assert hint.instance_id is None or hint.message_id == f"m{INSTANCES.index(hint.instance_id)}"

    async def test_watching_ends_with_close(self, backend: Backend, other: Backend) -> None:
        async def collect() -> list[Hint]:
            return [hint async for hint in backend.watch()]

        watchers = [asyncio.create_task(collect()) for _ in range(2)]
        await create(other, Instance("a"))
        await asyncio.sleep(0)
        await backend.close()
        for hints in await asyncio.wait_for(asyncio.gather(*watchers), DEADLINE):
            assert {hint.instance_id for hint in hints} <= {"a", None}
        await create(other, Instance("b"))  # nobody is left to be told

    async def test_a_watcher_may_leave(self, backend: Backend, other: Backend) -> None:
        async with aclosing(cast(AsyncGenerator[Hint, None], backend.watch())) as hints:
            leaving = asyncio.create_task(anext(hints))
            await asyncio.sleep(0)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                assert isinstance(await leaving, Hint)
        await create(other, Instance("a"))
        await create(backend, Instance("b"))

    async def test_a_watcher_may_be_cancelled_at_any_moment(self, backend: Backend) -> None:
        async def listen() -> None:
            async with aclosing(cast(AsyncGenerator[Hint, None], backend.watch())) as hints:
                async for _ in hints:
                    pass

        for passes in range(0, 60, 4):  # of the event loop, before it is cancelled
            listening = asyncio.create_task(listen())
            for _ in range(passes):
                await asyncio.sleep(0)
            listening.cancel()
            assert await asyncio.wait({listening}, timeout=DEADLINE) == ({listening}, set()), f"after {passes} passes"
            assert listening.cancelled()

    async def test_a_call_may_be_cancelled_at_any_moment(self, backend: Backend) -> None:
        async def ask() -> None:
            while True:
                await backend.get(INSTANCES[:1])
                await asyncio.sleep(0)

        for passes in range(0, 60, 2):
            asking = asyncio.create_task(ask())
            for _ in range(passes):
                await asyncio.sleep(0)
            asking.cancel()
            assert await asyncio.wait({asking}, timeout=DEADLINE) == ({asking}, set()), f"after {passes} passes"
            assert asking.cancelled()
