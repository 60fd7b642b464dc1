"""Settling: what follows in the store from committed checkpoints, behind the commit and in its order.

Rule of this file: nobody waits for it but those who look at the store from outside. A record may lag
behind its history for ``DELAY`` seconds, so that the turns of a short instance are settled at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from durable.backend import Backend, Commit, InstanceRecord
from durable.core.events import CustomStatusSet, ExecutionRewound
from durable.worker.patience import Patience

DELAY = 0.5
"""Seconds for which the records of instances that are merely under way may lag behind."""


class Settler:
    """Settles commits in batches; one task, so that they stay in order."""

    def __init__(self, backend: Backend, patience: Patience, settled: Callable[[Sequence[Commit]], None]) -> None:
        self._backend = backend
        self._patience = patience
        self._settled = settled
        self._unsettled: list[Commit] = []
        self._ahead: dict[str, InstanceRecord] = {}
        self._something = asyncio.Event()
        self._hurry = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._round = asyncio.Event()  # of the batch that is settled next; each has its own
        self._released = False

    def add(self, commits: Sequence[Commit]) -> None:
        """Settle these commits, which are committed."""
        if not commits:
            return
        self._unsettled += commits
        self._ahead.update((commit.record.instance_id, commit.record) for commit in commits)
        self._quiet.clear()
        self._something.set()
        if any(map(_is_urgent, commits)):
            self._hurry.set()

    def ahead(self, instance_id: str) -> InstanceRecord | None:
        """The record of an instance whose committed history the store's record does not show yet."""
        return self._ahead.get(instance_id)

    async def caught_up(self, instance_id: str) -> None:
        """Wait until the store's record of an instance shows its committed history, without delay."""
        while instance_id in self._ahead and not self._released:
            self._hurry.set()
            await self._round.wait()

    async def drain(self) -> None:
        """Wait until everything is settled, without delay."""
        if not self._quiet.is_set():
            self._hurry.set()
            await self._quiet.wait()

    def release(self) -> None:
        """Let go of those who wait: nothing more will be settled."""
        self._released = True
        self._quiet.set()
        self._round.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._something.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(DELAY):
                    await self._hurry.wait()
            self._hurry.clear()
            self._something.clear()
            commits, self._unsettled = self._unsettled, []
            await self._patience.insist(partial(self._backend.settle, commits))
            for commit in commits:
                if self._ahead.get(commit.record.instance_id) is commit.record:
                    del self._ahead[commit.record.instance_id]
            self._settled(commits)
            self._round.set()
            self._round = asyncio.Event()
            if not self._unsettled:
                self._hurry.clear()  # whoever hurried meanwhile has what he waited for
                self._quiet.set()


def _is_urgent(commit: Commit) -> bool:
    """Whether somebody outside may wait for what settling shows."""
    if commit.record.status.is_terminal or commit.messages or commit.starts:
        return True
    if commit.record.execution_id != commit.checkpoint.execution_id:
        return True  # its next execution waits for this
    return any(type(event) in (CustomStatusSet, ExecutionRewound) for event in commit.checkpoint.events)
