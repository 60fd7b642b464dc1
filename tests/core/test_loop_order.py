"""The order of execution is the same in every process, whatever its hash seed and heap layout.

Many processes, because order by address may come out the same twice by chance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).with_name("loop_order_snippets.py")
RUNS = 50


def run(layout: int, *arguments: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": str(layout)}
    return subprocess.run(
        [sys.executable, str(SNIPPETS), str(layout), *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def orders(runs: int, *arguments: str) -> dict[str, set[str]]:
    """The different orders that were seen, by snippet."""
    seen: dict[str, set[str]] = defaultdict(set)
    with ThreadPoolExecutor(2) as pool:
        for output in pool.map(lambda layout: run(layout, *arguments), range(1, runs + 1)):
            for line in output.splitlines():
                name, _, order = line.partition(": ")
                seen[name].add(order)
    return seen


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_processes_see_one_order() -> None:
    seen = orders(RUNS)
    assert len(seen) == 8
    assert {name: len(different) for name, different in seen.items()} == dict.fromkeys(seen, 1)


@pytest.mark.timeout(120)
def test_the_snippets_can_tell() -> None:
    """On asyncio's own loop the same programs do see different orders, or the test above would prove nothing."""
    seen = orders(6, "plain")
    assert {name for name, different in seen.items() if len(different) > 1} >= {
        "wait_done_set",
        "as_completed_coroutines",
        "task_group_abort",
        "anyio_task_group_cancel",
        "anyio_nested_scopes",
    }
