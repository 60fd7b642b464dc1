"""The pace of the exporting thread: it takes of the processor what the instances leave, and a small share in any case.

Rule of this file: used by one thread, whose work is measured from rest to rest.
"""

from __future__ import annotations

from time import monotonic, process_time, thread_time

_WORK = 0.002
"""Seconds of work after which it is time to rest."""
_OF_IDLE = 0.25
"""Share of what the process leaves idle that may be used besides."""


class Pace:
    """How long to rest so that this thread takes ``share`` of a processor, or a quarter of what others leave idle."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._rested_at = 0.0
        self._since = 0.0
        self._used = 0.0
        self._worked = 0.0

    def begin(self) -> None:
        """Measure the work of this thread from here on."""
        self._rested_at = self._worked = thread_time()
        self._since, self._used = monotonic(), process_time()

    def rest(self) -> float:
        """Seconds to rest for what was done since :meth:`rested`; 0 while it is little."""
        worked = thread_time() - self._rested_at
        if worked < _WORK:
            return 0.0
        share = max(self._share, _OF_IDLE * (1.0 - self._busy()))
        return worked * (1.0 / share - 1.0)

    def rested(self) -> None:
        """Go on working."""
        self._rested_at = thread_time()

    def _busy(self) -> float:
        """What share of one processor all other threads took since this was asked for the last time."""
        now, used, worked = monotonic(), process_time(), thread_time()
        others = (used - self._used) - (worked - self._worked)
        elapsed = now - self._since
        self._since, self._used, self._worked = now, used, worked
        return min(1.0, others / elapsed) if elapsed > 0 else 1.0
