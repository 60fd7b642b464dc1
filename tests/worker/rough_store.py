"""The store of a simulation: what can happen on the way to it, and rivals that come first.

Rule of this file: whatever happens here may happen between a worker and a real store, at every operation of the port.
Beyond the errors and crashes of ``FaultyBackend`` it may be slow, be overtaken, or arrive twice. All of it is counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from durable.backend import Commit, CommitOutcome
from durable.testing.faults import Fault, FaultyBackend, Plan, Step, Work
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore

T = TypeVar("T")

LONGEST = 3.0  # virtual seconds: longer than a lease


@dataclass
class Roughness:
    """How likely each operation is slow, is repeated on its way, or finds that a rival was first, while ``raging``."""

    random: Random
    raging: Callable[[], bool]
    slowness: float = 0.0
    duplicates: float = 0.0
    rivals: float = 0.0
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    _last: int = 0

    def happens(self, chance: float) -> bool:
        """Whether what has this chance happens now; nothing is drawn for what never does."""
        return chance > 0 and self.raging() and self.random.random() < chance

    def delay(self) -> float:
        """How many virtual seconds an operation is late."""
        if not self.happens(self.slowness):
            return 0.0
        self.faults["delayed"] += 1
        return self.random.uniform(0.0, LONGEST)

    def asked(self, operation: str, step: Step) -> Step:
        """Count an operation and what its plan does to it."""
        self.operations += 1
        if step.fault is not Fault.NONE:
            self.faults["hint lost" if operation == "watch" else step.fault.value] += 1
        return step

    def applied(self, number: int) -> None:
        """Operation ``number`` has reached the store: was it overtaken?"""
        if number < self._last:
            self.faults["overtaken"] += 1
        self._last = max(self._last, number)


class RoughBackend(FaultyBackend):
    """A handle on the store through which operations are late, overtake each other, and arrive twice."""

    def __init__(self, inner: StrictBackend, plan: Plan, on_crash: Callable[[str], None]) -> None:
        super().__init__(inner, plan, on_crash=on_crash)
        self._rough = inner.rough

    async def _run(self, operation: str, whole: Work[T], parts: Sequence[Work[Any]] = ()) -> T:
        rough, number = self._rough, self._rough.operations

        async def late() -> T:
            await _sleep(rough.delay())
            rough.applied(number)
            result = await whole()
            if rough.happens(rough.duplicates):
                rough.faults["arrived twice"] += 1
                self._later.add(asyncio.create_task(_repeat(whole, rough.random.uniform(0.0, LONGEST))))
            await _sleep(rough.delay())  # what was true when it was read may be so no more when it is heard
            return result

        return await super()._run(operation, late, parts)

    async def close(self) -> None:
        """Wait for all that is still on its way, also for what that brings with it, and close the store."""
        while late := [task for task in self._later if not task.done()]:
            await asyncio.wait(late)
        await super().close()


class StrictBackend(MemoryBackend):
    """A store that sees to what its callers have promised, and that other workers write to as well."""

    def __init__(self, store: MemoryStore, rough: Roughness, *, settles_on_commit: bool) -> None:
        super().__init__(store, settles_on_commit=settles_on_commit)
        self.rough = rough

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        names = [commit.checkpoint.instance_id for commit in commits]
        if len(set(names)) < len(names):
            raise AssertionError(f"a batch with two commits of an instance: {names}")
        rivals = [commit for commit in commits if not commit.create and self.rough.happens(self.rough.rivals)]
        # Another owner of the same partition comes to the same turn, commits it, and dies.
        await super().commit([replace(one, checkpoint=replace(one.checkpoint, token="a rival")) for one in rivals])
        outcomes = await super().commit(commits)
        self.rough.faults["conflict"] += sum(outcome is CommitOutcome.CONFLICT for outcome in outcomes)
        return outcomes


async def _sleep(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


async def _repeat(work: Work[Any], delay: float) -> None:
    await asyncio.sleep(delay)
    await work()
