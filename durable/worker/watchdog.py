"""The watchdog: names an orchestrator that keeps the host's thread, while it keeps it."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from math import isfinite
from time import perf_counter

_log = logging.getLogger("durable.worker")


class Watchdog:
    """Reports a turn that takes longer than ``limit`` seconds, with the stack of the thread it blocks."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.turn: tuple[str, float] | None = None
        """The turn that runs now and when it began, by ``perf_counter``; set by whoever runs turns."""
        self._reported: tuple[str, float] | None = None
        self._stopped = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="durable-watchdog", daemon=True)

    def start(self) -> None:
        """Watch the thread that called the constructor; with an infinite limit there is nothing to watch for."""
        if isfinite(self._limit):
            self._thread.start()

    def stop(self) -> None:
        """End the watching thread and wait for it."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._limit / 2):
            turn = self.turn
            if turn is None or turn is self._reported or perf_counter() - turn[1] < self._limit:
                continue
            frame = sys._current_frames().get(self._watched)
            if frame is not None and self.turn is turn:
                self._reported = turn
                _log.warning(
                    "the orchestrator of instance %r has kept the event loop for more than %g s; move blocking or "
                    "heavy work into an activity. It is at:\n%s",
                    turn[0],
                    self._limit,
                    "".join(traceback.format_stack(frame)),
                )
