"""Time limits: each future has its own end, whoever is done before is left alone, one timer serves all."""

from __future__ import annotations

import asyncio

import pytest

from durable.testing.virtual_loop import VirtualLoop
from durable.time_limit import TimeLimit


def test_each_runs_out_after_its_own_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit, begun = TimeLimit(10), loop.time()
        first, second, third, done = (loop.create_future() for _ in range(4))
        limit.add(first, lambda: LookupError("first"))
        limit.add(done, lambda: LookupError("done"))
        limit.add(second, lambda: LookupError("second"))
        limit.remove(second)
        done.set_result("in time")
        await asyncio.sleep(4)
        limit.add(third, lambda: LookupError("third"))
        with pytest.raises(LookupError, match="first"):
            await first
        assert loop.time() == begun + 10
        with pytest.raises(LookupError, match="third"):
            await third
        assert loop.time() == begun + 14
        assert done.result() == "in time"
        assert not second.done()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_it_counts_again_after_a_pause() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limit = TimeLimit(10)
        for begun in (loop.time(), loop.time() + 100):
            await asyncio.sleep(begun - loop.time())
            late = loop.create_future()
            limit.add(late, TimeoutError)
            with pytest.raises(TimeoutError):
                await late
            assert loop.time() == begun + 10

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
