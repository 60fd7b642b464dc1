"""``durable worker --reload``: a supervisor that restarts the worker's process when a Python file changes.

Rule of this file: a restart is a graceful stop and a new process, so that it loads all code anew. The worker gets a
session of its own: a Ctrl-C of the terminal reaches the supervisor alone, which passes on one signal.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress

from durable.cli.exits import ExitCode
from durable.serving import Stopped, stop_signals

_log = logging.getLogger("durable.reload")


async def supervise(command: Sequence[str], directory: str) -> ExitCode:
    """Keep ``command`` running until a signal comes; restart it when a Python file below ``directory`` changes.

    A worker that ends by itself, as by an error in the code, is started again at the next change.
    """
    from watchfiles import PythonFilter, awatch

    process: Process | None = None
    try:
        async with stop_signals() as stopped:
            process = await _start(command)
            async for changes in awatch(directory, watch_filter=PythonFilter(), stop_event=stopped):
                _log.info("%s changed, the worker restarts", ", ".join(sorted({path for _, path in changes})))
                await _stop(process)
                process = await _start(command)
            await _stop(process)
    except Stopped:
        return ExitCode.FAILED
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
    return ExitCode.OK


async def _start(command: Sequence[str]) -> Process:
    return await asyncio.create_subprocess_exec(*command, start_new_session=True)


async def _stop(process: Process) -> None:
    """Stop the worker gracefully, for as long as it takes."""
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it ended at this moment
            process.terminate()
    await process.wait()
