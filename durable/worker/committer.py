"""Group commit: every finished turn that waits is written in one batch.

Rule of this file: nothing happens before its cause is committed. A turn's ``done`` is called right
after its commit point. After a lost connection the same batch is written again: its tokens tell
whether it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from durable.backend import Backend, Commit, CommitOutcome, InstanceRecord
from durable.core.values import value
from durable.offload import store_large, store_large_input
from durable.worker.patience import Patience
from durable.worker.settler import Settler

Done: TypeAlias = Callable[[CommitOutcome], None]

MAX_BATCH = 500


@value
class _Before:
    """What few commits want to be done before them."""

    large: bool
    start: InstanceRecord | None


_Waiting: TypeAlias = tuple[Commit, Done, _Before | None]


class Committer:
    """Writes commits in batches, one batch at a time; at most one commit of an instance is in flight."""

    def __init__(
        self,
        backend: Backend,
        patience: Patience,
        on_failure: Callable[[BaseException], None],
        settled: Callable[[Sequence[Commit]], None],
        observe: Callable[[Sequence[Commit]], None] | None = None,
    ) -> None:
        self._observe = observe
        self._backend = backend
        self._patience = patience
        self._on_failure = on_failure
        self._settled = settled
        self._settler = Settler(backend, patience, settled)
        self._waiting: list[_Waiting] = []
        self._something = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: BaseException | None = None

    def start(self) -> None:
        """Begin to write."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(), name="durable-committer"),
            loop.create_task(self._settler.run(), name="durable-settler"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def submit(self, commit: Commit, done: Done, *, large: bool = False, start: InstanceRecord | None = None) -> None:
        """Queue ``commit``; ``done`` is called with its outcome, in the loop, after it is durable.

        ``large`` says that it holds values above the offload threshold. ``start`` is the record to be created before
        an instance's first checkpoint, where that is not the record of the commit: it continued as new at once.
        """
        if self._failed is not None:
            raise RuntimeError("the committer has failed; its worker is stopping") from self._failed
        self._waiting.append((commit, done, _Before(large, start) if large or start is not None else None))
        if len(self._waiting) == 1:
            self._quiet.clear()
            self._something.set()

    def ahead(self, instance_id: str) -> InstanceRecord | None:
        """The record of an instance whose committed history the store's record does not show yet."""
        return self._settler.ahead(instance_id)

    async def caught_up(self, instance_id: str) -> None:
        """Wait until the store's record of an instance shows what was committed here."""
        await self._settler.caught_up(instance_id)

    async def drain(self) -> None:
        """Wait until everything submitted is committed and settled. Raises what a task of the committer failed with."""
        for quiet in (self._quiet.wait, self._settler.drain):
            if self._failed is None:
                await quiet()  # which a failure ends, too
            if self._failed is not None:
                raise self._failed

    def abandon(self) -> None:
        """Stop without waiting; what is not committed never happened."""
        for task in self._tasks:
            task.cancel()
        self._waiting.clear()

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                await self._write(self._take_batch())
            self._quiet.set()

    async def _write(self, batch: list[_Waiting]) -> None:
        commits = [commit for commit, _, _ in batch]
        if [before for _, _, before in batch if before is not None]:  # a list: a generator takes three times as long
            batch, commits = await self._prepare(batch)
        outcomes = await self._patience.insist(partial(self._backend.commit, commits))
        if not self._backend.settles_on_commit:
            pairs = zip(commits, outcomes, strict=True)
            self._settler.add([commit for commit, outcome in pairs if outcome is CommitOutcome.COMMITTED])
        sent: list[Commit] = []
        for (commit, done, _), outcome in zip(batch, outcomes, strict=True):
            done(outcome)
            if outcome is CommitOutcome.COMMITTED and _sends(commit):
                sent.append(commit)
        if sent and self._backend.settles_on_commit:
            self._settled(sent)
        if self._observe is not None:
            told = zip(batch, outcomes, strict=True)
            self._observe([commit for (commit, _, _), outcome in told if outcome is CommitOutcome.COMMITTED])

    async def _prepare(self, batch: list[_Waiting]) -> tuple[list[_Waiting], list[Commit]]:
        """Create records and store large values. Returns those whose id is not taken, and the commits to write."""
        kept, commits = [], []
        for waiting in batch:
            commit, done, before = waiting
            if before is not None and before.start is not None and not await self._create(before.start):
                done(CommitOutcome.EXISTS)
                continue
            if before is not None and before.large:
                commit = await self._patience.insist(partial(store_large, self._backend, commit))
            kept.append(waiting)
            commits.append(commit)
        return kept, commits

    async def _create(self, start: InstanceRecord) -> bool:
        """Create the record of a start; False when its id is taken."""
        small = await self._patience.insist(partial(store_large_input, self._backend, start))
        existing = (await self._patience.insist(partial(self._backend.create_instances, [small])))[0]
        return existing is None

    def _take_batch(self) -> list[_Waiting]:
        """The next commits, one of an instance: one whose partition was lost and won again may have two waiting."""
        first, rest = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        batch: dict[str, _Waiting] = {}
        later = [item for item in first if batch.setdefault(item[0].record.instance_id, item) is not item]
        self._waiting = later + rest
        return list(batch.values())

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A failure here is a broken store or a bug: nothing may go on as if it had been written."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed = error
            self._quiet.set()
            self._settler.release()
            self._on_failure(error)


def _sends(commit: Commit) -> bool:
    """Whether something waits for what follows from ``commit``: messages, starts, the next execution."""
    return bool(commit.messages or commit.starts or commit.record.execution_id != commit.checkpoint.execution_id)
