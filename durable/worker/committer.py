"""Group commit: every finished turn that waits is written in one batch.

Rule of this file: nothing happens before its cause is committed. A turn's ``done`` is called right
after its commit point; what follows in the store (``settle``) is done behind it, in order, and
repeated until it is done. After a lost connection the same batch is written again: its tokens
tell whether it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from durable.backend import Backend, BackendUnavailable, Commit, CommitOutcome, InstanceRecord
from durable.core.events import CustomStatusSet
from durable.offload import has_large, store_large

Done: TypeAlias = Callable[[CommitOutcome], None]
T = TypeVar("T")

MAX_BATCH = 500
SETTLE_DELAY = 0.1
"""Seconds for which records of instances that are merely under way may lag behind history."""

_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0
_log = logging.getLogger("durable.worker")


class Committer:
    """Writes commits in batches, one batch at a time; at most one commit of an instance is in flight."""

    def __init__(self, backend: Backend, on_failure: Callable[[BaseException], None]) -> None:
        self._backend = backend
        self._on_failure = on_failure
        self._waiting: list[tuple[Commit, Done]] = []
        self._unsettled: list[Commit] = []
        self._ahead: dict[str, InstanceRecord] = {}
        self._writing: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._scheduled = False
        self._failed: BaseException | None = None
        self.available = True

    def submit(self, commit: Commit, done: Done) -> None:
        """Queue ``commit``; ``done`` is called with its outcome, in the loop, after it is durable."""
        if self._failed is not None:
            raise RuntimeError("the committer has failed; its worker is stopping") from self._failed
        self._waiting.append((commit, done))
        if self._writing is None and not self._scheduled:
            # Not at once: turns that end in this iteration of the loop share the batch.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start_writing)

    def ahead(self, instance_id: str) -> InstanceRecord | None:
        """The record of an instance whose committed history the store's record does not show yet."""
        return self._ahead.get(instance_id)

    async def drain(self) -> None:
        """Wait until everything submitted is committed and settled."""
        while self._waiting or self._scheduled or self._writing or self._unsettled or self._settling:
            self._hurry.set()
            under_way = [task for task in (self._writing, self._settling) if task is not None]
            if under_way:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)
        if self._failed is not None:
            raise self._failed

    def abandon(self) -> None:
        """Stop without waiting; what is not committed never happened."""
        for task in (self._writing, self._settling):
            if task is not None:
                task.cancel()
        self._waiting.clear()
        self._unsettled.clear()

    def _start_writing(self) -> None:
        self._scheduled = False
        if self._writing is None and self._waiting:
            self._writing = asyncio.get_running_loop().create_task(self._write_all(), name="durable-committer")
            self._writing.add_done_callback(self._ended)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._take_batch()
                commits = [commit for commit, _ in batch]
                if any(map(has_large, commits)):
                    commits = [await self._persist(lambda c=c: store_large(self._backend, c)) for c in commits]  # type: ignore[misc]
                outcomes = await self._persist(lambda commits=commits: self._backend.commit(commits))  # type: ignore[misc]
                self._finish(batch, commits, outcomes)
        finally:
            self._writing = None

    def _take_batch(self) -> list[tuple[Commit, Done]]:
        """The next commits, one of an instance: one whose partition was lost and won again may have two waiting."""
        first, rest = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        batch: dict[str, tuple[Commit, Done]] = {}
        later = [item for item in first if batch.setdefault(item[0].checkpoint.instance_id, item) is not item]
        self._waiting = later + rest
        return list(batch.values())

    def _finish(
        self, batch: list[tuple[Commit, Done]], commits: list[Commit], outcomes: Sequence[CommitOutcome]
    ) -> None:
        if not self._backend.settles_on_commit:
            pairs = zip(commits, outcomes, strict=True)
            self._settle_later([commit for commit, outcome in pairs if outcome is CommitOutcome.COMMITTED])
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            done(outcome)

    # --- behind the commit -----------------------------------------------------------------

    def _settle_later(self, commits: list[Commit]) -> None:
        self._unsettled += commits
        self._ahead.update((commit.record.instance_id, commit.record) for commit in commits)
        if any(map(_is_urgent, commits)):
            self._hurry.set()
        if self._unsettled and self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle_all(), name="durable-settler")
            self._settling.add_done_callback(self._ended)

    async def _settle_all(self) -> None:
        try:
            while self._unsettled:
                try:
                    async with asyncio.timeout(SETTLE_DELAY):
                        await self._hurry.wait()
                except TimeoutError:
                    pass
                self._hurry.clear()
                commits, self._unsettled = self._unsettled, []
                await self._persist(lambda commits=commits: self._backend.settle(commits))  # type: ignore[misc]
                for commit in commits:
                    if self._ahead.get(commit.record.instance_id) is commit.record:
                        del self._ahead[commit.record.instance_id]
        finally:
            self._settling = None

    async def _persist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat ``operation`` through lost connections: all that is called here is idempotent."""
        delay = _FIRST_RETRY
        while True:
            try:
                result = await operation()
            except BackendUnavailable as error:
                if self.available:
                    _log.warning("the store is not available, retrying until it is: %s", error)
                self.available = False
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY)
            else:
                if not self.available:
                    _log.info("the store is available again")
                self.available = True
                return result

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A failure here is a broken store or a bug: nothing may go on as if it had been written."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed = error
            self._on_failure(error)


def _is_urgent(commit: Commit) -> bool:
    """Whether somebody outside may wait for what settling shows."""
    if commit.record.status.is_terminal or commit.messages:
        return True
    return any(type(event) is CustomStatusSet for event in commit.checkpoint.events)
