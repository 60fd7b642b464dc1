"""Running until told to stop: SIGTERM and SIGINT as the end of a block.

Rule of this file: the first signal ends the wait, so that the code after it stops gracefully; the second cancels the
task, which cuts that short. Handlers of before are put back.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK = 1.0  # seconds

_log = logging.getLogger("durable.serving")


class Stopped(Exception):  # noqa: N818 - it ends the wait, nothing is wrong
    """A second signal came: the work was cut short instead of drained."""


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets; a second one cancels this task, and the block raises Stopped.

    Works on Unix and in the main thread only; elsewhere it raises what ``loop.add_signal_handler`` does.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # this is a coroutine
    stopped, cut_short = asyncio.Event(), False

    def on_signal(number: signal.Signals) -> None:
        nonlocal cut_short
        if not stopped.is_set():
            _log.info("%s: the worker stops; what runs may end, a second signal cuts it short", number.name)
            stopped.set()
        elif not cut_short:
            _log.warning("%s again: the worker stops at once", number.name)
            cut_short = True
            task.cancel()

    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stopped
    except asyncio.CancelledError:
        if not cut_short or task.uncancel() > 0:
            raise
        raise Stopped from None
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def wait_until(stopped: asyncio.Event, ended: Callable[[], bool]) -> None:
    """Wait for the event, or until ``ended`` is so, which is asked every second."""
    while not stopped.is_set() and not ended():
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await stopped.wait()
