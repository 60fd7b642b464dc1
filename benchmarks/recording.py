"""A backend that keeps what the engine writes, so that the same can be written without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable.backend import Backend, Commit, CommitOutcome, InstanceRecord


class RecordingBackend:
    """Passes everything on to ``inner`` and remembers the batches that were written."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.settles_on_commit = inner.settles_on_commit
        self.keep = False
        self.batches: list[list[Commit]] = []
        self.settled = 0
        self.created = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def record(self) -> None:
        """Forget what was kept and keep from here on."""
        self.keep, self.batches, self.settled, self.created = True, [], 0, 0

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitOutcome]:
        if self.keep:
            self.batches.append(list(commits))
        return await self._inner.commit(commits)

    async def settle(self, commits: Sequence[Commit]) -> None:
        if self.keep:
            self.settled += 1
        await self._inner.settle(commits)

    async def create_instances(self, records: Sequence[InstanceRecord]) -> Sequence[InstanceRecord | None]:
        if self.keep:
            self.created += 1
        return await self._inner.create_instances(records)


async def write_again(backend: Backend, batches: Sequence[Sequence[Commit]]) -> None:
    """The floor: the same checkpoints in the same batches, one batch after the other, and nothing else."""
    for batch in batches:
        await backend.commit(batch)
        if not backend.settles_on_commit:
            await backend.settle(batch)
