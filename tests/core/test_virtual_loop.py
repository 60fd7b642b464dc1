"""The loop that stands alone in virtual time. (That asyncio works on it is for tests/loop_conformance to show.)"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durable.core.errors import NonDeterminismError
from durable.testing import DeadlockError, VirtualLoop


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def test_sleeping_a_month_takes_no_time_and_wakes_to_the_second() -> None:
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(30 * 86_400), asyncio.sleep(5))
        return asyncio.get_running_loop().time()

    assert run(main()) == 30 * 86_400


def test_timers_fire_in_order_of_time_then_of_setting() -> None:
    order: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay, name in ((2, "c"), (1, "a"), (2, "d"), (1, "b"), (3, "e")):
            loop.call_later(delay, order.append, name)
        loop.call_later(1, order.append, "never").cancel()
        await asyncio.sleep(4)

    run(main())
    assert order == ["a", "b", "c", "d", "e"]


def test_a_cancelled_timer_does_not_move_the_time() -> None:
    async def main() -> float:
        async with asyncio.timeout(1000):
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run(main()) == 2


def test_waiting_for_nothing_is_an_error_that_names_who_waits_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="stuck")

    with pytest.raises(DeadlockError, match=r"stuck at test_virtual_loop.py:\d+ in .*waits_for_ever"):
        run(main())


def test_a_timer_at_infinity_never_fires() -> None:
    with pytest.raises(DeadlockError):
        run(asyncio.sleep(math.inf))


def test_other_threads_are_refused() -> None:
    with ThreadPoolExecutor(1) as pool:
        started_before = pool.submit(threading.get_ident)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            refused: Future[Any] = pool.submit(loop.call_soon_threadsafe, print)
            with pytest.raises(NonDeterminismError, match="another thread"):
                refused.result(10)
            with pytest.raises(NonDeterminismError, match="run_in_executor"):
                await asyncio.to_thread(print)

        assert started_before.result(10) != threading.get_ident()
        run(main())


def test_a_signal_handler_can_wake_it() -> None:
    async def main() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run(main())
    finally:
        signal.signal(signal.SIGINT, before)


def test_stop_lets_what_is_ready_run() -> None:
    seen: list[int] = []
    loop = VirtualLoop()
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.call_soon, seen.append, 2)
    loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    assert seen == [1, 2]
    loop.close()


def test_a_closed_loop_refuses_work() -> None:
    loop = VirtualLoop()
    loop.close()
    assert loop.is_closed()
    for use in (loop.run_forever, loop.create_future, lambda: loop.call_soon(print)):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_it_cannot_run_inside_another_or_itself() -> None:
    async def main() -> None:
        loop = VirtualLoop()
        with pytest.raises(RuntimeError, match="another loop is running"):
            loop.run_forever()
        loop.close()
        here: Any = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="already running"):
            here.run_forever()
        with pytest.raises(RuntimeError, match="running event loop"):
            here.close()

    run(main())
