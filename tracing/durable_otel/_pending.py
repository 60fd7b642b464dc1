"""What waits to be exported: committed turns, and instances whose history is to be read from the store.

Rule of this file: bounded memory, and nothing lost. What does not fit is remembered by its name only; the store has the
rest. The event loop puts in, the exporting thread takes out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple, TypeAlias

from durable.backend import Checkpoint
from durable.core.event_values import value_sizes

Key: TypeAlias = tuple[str, str]
"""Instance and execution."""

MAX_BEHIND = 100_000
"""Names of executions to be read from the store; beyond it, the oldest are left to ``export_history``."""


class Turns(NamedTuple):
    """Checkpoints of one execution, in order. ``whole``: all there are. ``forced``: exported whatever was sampled."""

    checkpoints: tuple[Checkpoint, ...]
    whole: bool = False
    forced: bool = False

    @property
    def key(self) -> Key:
        return self.checkpoints[0].instance_id, self.checkpoints[0].execution_id


class Pending:
    """A queue of turns, bounded by their number and their bytes; and the executions that are behind."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._turns: deque[tuple[float, Checkpoint | Turns, int]] = deque()
        self._count = self._bytes = 0
        self._behind: OrderedDict[Key, bool] = OrderedDict()
        self._condition = threading.Condition()
        self._closed = False
        self.forgotten = 0

    def add(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Queue turns that were just committed; one that does not fit leaves its execution behind."""
        now = monotonic()
        put = self._turns.append
        with self._condition:
            for checkpoint in checkpoints:
                size, _ = value_sizes(checkpoint.events)
                if self._count < self._limit and self._bytes + size <= self._max_bytes:
                    put((now, checkpoint, size))
                    self._count += 1
                    self._bytes += size
                else:
                    self._leave_behind((checkpoint.instance_id, checkpoint.execution_id), forced=False)
            self._condition.notify()

    def add_whole(self, turns: Turns) -> None:
        """Queue the history of an execution, whatever the limit: few are read at a time."""
        with self._condition:
            size = sum(value_sizes(one.events)[0] for one in turns.checkpoints)
            self._turns.append((monotonic(), turns, size))
            self._count += len(turns.checkpoints)
            self._bytes += size
            self._condition.notify()

    def take(self, timeout: float | None) -> Turns | None:
        """The next turns; None when there are none within ``timeout`` seconds, or the queue is closed and empty."""
        with self._condition:
            if not self._turns:
                self._condition.wait_for(lambda: self._turns or self._closed, timeout)
                if not self._turns:
                    return None
            _, item, size = self._turns.popleft()
            turns = item if isinstance(item, Turns) else Turns((item,))
            self._count -= len(turns.checkpoints)
            self._bytes -= size
            return turns

    def leave_behind(self, key: Key, *, forced: bool = False) -> None:
        """Have an execution's history read from the store."""
        with self._condition:
            self._leave_behind(key, forced=forced)

    def _leave_behind(self, key: Key, *, forced: bool) -> None:
        self._behind[key] = forced or self._behind.get(key, False)
        if len(self._behind) > MAX_BEHIND:
            self._behind.popitem(last=False)
            self.forgotten += 1

    def next_behind(self) -> tuple[Key, bool] | None:
        """An execution to be read, and whether it is forced; None while there is none, or too much waits already."""
        with self._condition:
            if not self._behind or self._count > self._limit // 2 or self._bytes > self._max_bytes // 2:
                return None
            return self._behind.popitem(last=False)

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self._turns and not self._behind

    @property
    def lag(self) -> float:
        """Seconds for which the oldest queued turn has waited."""
        with self._condition:
            return monotonic() - self._turns[0][0] if self._turns else 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let the thread end when all that is queued is exported."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
