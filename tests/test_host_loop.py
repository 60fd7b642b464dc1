"""The event loop of durable's own programs."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

import pytest

from durable import TaskHub
from durable.host_loop import EventLoop, chosen_loop, host_runner, loop_version


@pytest.fixture
def without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # an import of it fails, as where it is not installed


async def running() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.parametrize(
    ("asked", "loop"),
    [(None, "uvloop"), ("", "uvloop"), ("auto", "uvloop"), ("uvloop", "uvloop"), ("asyncio", "asyncio")],
)
def test_a_program_runs_on_the_loop_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, loop: str
) -> None:
    monkeypatch.delenv("DURABLE_EVENT_LOOP", raising=False)
    if asked is not None:
        monkeypatch.setenv("DURABLE_EVENT_LOOP", asked)
    with host_runner() as runner:
        assert runner.run(running()) == loop
    assert loop_version() == (f"uvloop {version('uvloop')}" if loop == "uvloop" else "asyncio")


@pytest.mark.usefixtures("without_uvloop")
def test_it_is_asyncio_where_there_is_no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_EVENT_LOOP", "auto")
    assert chosen_loop() is EventLoop.ASYNCIO
    with host_runner() as runner:
        assert runner.run(running()) == "asyncio"
    monkeypatch.setenv("DURABLE_EVENT_LOOP", "uvloop")
    with pytest.raises(ValueError, match="DURABLE_EVENT_LOOP='uvloop': it is not installed; pip install uvloop"):
        host_runner()


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_EVENT_LOOP", "trio")
    with pytest.raises(ValueError, match="DURABLE_EVENT_LOOP='trio': it must be one of auto, asyncio, uvloop"):
        chosen_loop()


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_EVENTLOOP", "asyncio")
    with pytest.raises(ValueError, match="did you mean DURABLE_EVENT_LOOP"):
        TaskHub("memory://")
