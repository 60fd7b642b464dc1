"""Watching an instance until it ends.

Rule of this file: a terminal gets one place that changes, a pipe a line for each change; or nothing before the end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from durable.cli.output import Output, fields_table
from durable.cli.shapes import status_shape
from durable.handle import InstanceHandle, InstanceStatus

_LOOK = 0.25  # seconds between two looks


async def watch(output: Output, handle: InstanceHandle[Any], timeout: float | None, *, live: bool) -> InstanceStatus:
    """The status of an instance when it has ended; with ``live`` each change is shown on the way.

    ``timeout`` is in seconds. Raises TimeoutError, naming the status that it has then, and InstanceNotFoundError.
    """
    try:
        async with asyncio.timeout(timeout):
            if live and output.for_people:
                return await _watch_in_place(output, handle)
            return await _watch_changes(output, handle, live)
    except TimeoutError:
        status = await handle.status()
        raise TimeoutError(
            f"{status.instance_id} is still {status.runtime_status} after {timeout:g} s; it goes on"
        ) from None


async def _watch_in_place(output: Output, handle: InstanceHandle[Any]) -> InstanceStatus:
    from rich.live import Live

    with Live(console=output.console(), auto_refresh=False, transient=True) as live:
        while True:
            status = await handle.status()
            live.update(fields_table(_progress(status)), refresh=True)
            if status.runtime_status.is_terminal:
                return status
            await asyncio.sleep(_LOOK)


def _progress(status: InstanceStatus) -> list[tuple[str, Any]]:
    shape = status_shape(status)
    names = ("instanceId", "name", "runtimeStatus", "customStatus", "problem", "lastUpdatedTime")
    return [(name, shape[name]) for name in names if shape[name] is not None]


async def _watch_changes(output: Output, handle: InstanceHandle[Any], live: bool) -> InstanceStatus:
    seen = None
    while True:
        status = await handle.status()
        if status.runtime_status.is_terminal:
            return status  # the caller shows it
        change = (status.runtime_status, status.custom_status, status.problem)
        if live and change != seen:
            if output.as_json:
                output.document(status_shape(status))
            else:
                output.row(value for _, value in _progress(status)[2:])
        seen = change
        await asyncio.sleep(_LOOK)
