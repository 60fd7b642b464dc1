"""The event loop of durable's own programs: uvloop where it is installed, else asyncio's.

Rule of this file: it serves the command line and the benchmarks. As a library, durable runs on the loop that it finds.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec

from durable.environment import EVENT_LOOP, read_as


class EventLoop(StrEnum):
    """The values of ``DURABLE_EVENT_LOOP``."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


def host_runner() -> asyncio.Runner:
    """A runner for a program, on the loop that :func:`chosen_loop` says. Raises ValueError as that does."""
    if chosen_loop() is EventLoop.ASYNCIO:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop)


def chosen_loop() -> EventLoop:
    """Which loop a program gets: that of ``DURABLE_EVENT_LOOP``, else uvloop where it is installed; never AUTO.

    Raises ValueError for another value, and for uvloop where it is not installed.
    """
    text = os.environ.get(EVENT_LOOP) or EventLoop.AUTO
    try:
        asked: EventLoop = read_as(EventLoop, text)
    except ValueError as error:
        raise ValueError(f"environment variable {EVENT_LOOP}={text!r}: {error}") from error
    if find_spec("uvloop") is None:
        if asked is EventLoop.UVLOOP:
            raise ValueError(f"environment variable {EVENT_LOOP}={text!r}: it is not installed; pip install uvloop")
        return EventLoop.ASYNCIO
    return EventLoop.UVLOOP if asked is EventLoop.AUTO else asked


def loop_version() -> str:
    """The chosen loop for a report: ``asyncio``, or ``uvloop`` with its version."""
    chosen = chosen_loop()
    return f"{chosen} {version('uvloop')}" if chosen is EventLoop.UVLOOP else str(chosen)
