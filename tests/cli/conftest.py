"""The command line in this process, on a store of the test's own."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from durable import TaskHub
from durable.cli import main
from tests.cli.orders import registry
from tests.e2e.waiting import until


@dataclass(frozen=True)
class Done:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The one document, or a list of those that are on a line each."""
        documents = [orjson.loads(line) for line in self.lines]
        return documents[0] if len(documents) == 1 else documents


Command = Callable[..., Done]


class Terminal(io.StringIO):
    """Stdin that somebody sits at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``durable`` with these arguments, in an empty directory and without DURABLE_URL unless the test sets it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DURABLE_URL", raising=False)
    monkeypatch.delenv("DURABLE_HUB", raising=False)

    def run(*arguments: str, stdin: str = "", at_terminal: bool = False) -> Done:
        monkeypatch.setattr(sys, "argv", ["durable", *arguments])
        monkeypatch.setattr(sys, "stdin", Terminal(stdin) if at_terminal else io.StringIO(stdin))
        code = main()
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store that no test changes, with one instance of each kind (see ``fill``)."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'orders.db'}"
    asyncio.run(fill(url))
    return url


@pytest.fixture
def looking(durable: Command, store: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """As ``durable``, on the store that is filled."""
    monkeypatch.setenv("DURABLE_URL", store)
    return durable


async def fill(url: str) -> None:
    """One instance that completed, one that failed, one with children, and one that waits."""
    hub = TaskHub(url)
    hub.include(registry)
    async with hub.worker():
        done = await hub.start("greet", "Ann", instance_id="done-1", tags={"shop": "7"})
        failed = await hub.start("refuse", instance_id="failed-1")
        family = await hub.start("family", ["Bob", "Cid"], instance_id="family-1")
        waiting = await hub.start("approval", instance_id="waiting-1")
        await done.result(30)
        await family.result(30)
        await until(failed.status, lambda status: status.runtime_status.is_terminal)
        await until(waiting.status, lambda status: status.custom_status == "waiting")
