"""The command line in processes of its own: workers, terminals and signals."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 30.0


def environment(url: str, **more: str) -> dict[str, str]:
    """What a process needs to work on ``url``."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("DURABLE_") and key != "NO_COLOR"}
    return {**own, "DURABLE_URL": url, **more}


@contextmanager
def running(*arguments: str, url: str, directory: Path = ROOT, **more: str) -> Iterator[subprocess.Popen[str]]:
    """``durable`` under way; killed at the end of the block. What it says goes to a file beside the store."""
    with _errors_of(url).open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "durable.cli", *arguments],
            cwd=directory,
            env=environment(url, **more),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def said(url: str) -> str:
    """What the process has said on stderr so far."""
    return _errors_of(url).read_text()


def _errors_of(url: str) -> Path:
    return Path(url.partition("///")[2]).with_suffix(".stderr")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE:g} s: {what}")
        time.sleep(0.02)


@contextmanager
def worker(url: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """``durable worker`` that is ready."""
    with running("worker", "tests.cli.orders:hub", url=url, directory=ROOT, **more) as process:
        wait_until(lambda: "runs hub" in said(url) or process.poll() is not None, "a worker")
        assert process.poll() is None, said(url)
        yield process
