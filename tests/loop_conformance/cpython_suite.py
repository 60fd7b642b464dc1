"""Run CPython's own asyncio tests on ``VirtualLoop``: ``python -m tests.loop_conformance.cpython_suite``.

A program, so that what it patches stays in its process.

Prints one line of JSON: ``{"passed": n, "failed": [...], "skipped": n, "excluded": n, "stale": [...]}``. Details
of failures go to stderr. Optional arguments: names of tests to be run, all others being left out.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from durable.core.loop import DeterministicLoop
from durable.testing.virtual_loop import VirtualLoop
from tests.loop_conformance.exclusions import CPYTHON

MODULES = (
    "test_context",
    "test_eager_task_factory",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_staggered",
    "test_taskgroups",
    "test_tasks",
    "test_timeouts",
    "test_waitfor",
)


class SuiteLoop(VirtualLoop):
    """A virtual loop with what CPython's test utilities reach for. ``gen`` scripted a clock; ours advances itself."""

    _default_executor = None

    def __init__(self, gen: object = None) -> None:
        super().__init__()

    def advance_time(self, seconds: float) -> None:
        self.advance_to(self.time() + seconds)


def install_loop() -> None:
    """Make ``asyncio`` and the test utilities create virtual loops."""
    asyncio.DefaultEventLoopPolicy._loop_factory = SuiteLoop  # type: ignore[attr-defined]
    asyncio.EventLoop = SuiteLoop  # type: ignore[attr-defined]  # 3.13
    utils = importlib.import_module("test.test_asyncio.utils")
    utils.TestLoop = SuiteLoop  # type: ignore[attr-defined]


def add_loop_made_tasks(module: Any) -> None:
    """Add a class that runs the task tests over the loop's own tasks and futures, not asyncio's."""

    class LoopMadeTaskTests(module.CTask_CFuture_Tests):  # type: ignore[misc]
        def new_task(self, loop: Any, coro: Any, name: str | None = "TestTask", **kwargs: Any) -> Any:
            # Not loop.create_task: the tests' set-up makes that one call this one.
            return DeterministicLoop.create_task(loop, coro, name=name, **kwargs)

        def new_future(self, loop: Any) -> Any:
            return DeterministicLoop.create_future(loop)

    module.LoopMadeTaskTests = LoopMadeTaskTests


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from cases(entry)
        else:
            yield entry


def load(wanted: set[str]) -> tuple[unittest.TestSuite, int, list[str]]:
    """The tests to be run, how many are excluded, and the exclusions that match no test."""
    loader = unittest.TestLoader()
    chosen, excluded, used = unittest.TestSuite(), 0, set()
    for name in MODULES:
        try:
            module = importlib.import_module(f"test.test_asyncio.{name}")
        except ModuleNotFoundError:
            continue  # newer than this Python
        if name == "test_tasks":
            add_loop_made_tasks(module)
        for case in cases(loader.loadTestsFromModule(module)):
            method = case.id().rpartition(".")[2]
            keys = {method, f"{type(case).__name__}.{method}"}
            if keys & CPYTHON.keys():
                excluded += 1
                used |= keys
            elif not wanted or keys & wanted:
                chosen.addTest(case)
    return chosen, excluded, sorted(CPYTHON.keys() - used)


class Result(unittest.TextTestResult):
    """Counts sub-tests of a test that fails once, and remembers what passed."""

    passed = 0

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.passed += 1


def main() -> None:
    install_loop()
    suite, excluded, stale = load(set(sys.argv[1:]))
    gc.freeze()  # some tests collect garbage a hundred times
    result_class: Any = Result
    result: Any = unittest.TextTestRunner(resultclass=result_class, verbosity=0, warnings="default").run(suite)
    failed = [*result.failures, *result.errors, *((test, "") for test in result.unexpectedSuccesses)]
    report = {
        "passed": result.passed,
        "failed": sorted({str(test) for test, _ in failed}),
        "skipped": len(result.skipped),
        "excluded": excluded,
        "stale": stale,
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
