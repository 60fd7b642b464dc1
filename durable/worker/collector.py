"""Python's garbage collector while a worker runs.

Rule of this file: it changes a setting of the whole process, so it says so, gives it back, and can be
told not to. A worker allocates and frees thousands of objects a turn, all by reference counts; at
Python's default (700, or 2,000 from 3.13 on) the collector walks the young ones after every few turns
and finds nothing. docs/performance.md has the figures.
"""

from __future__ import annotations

import gc


class CollectorThreshold:
    """Raises the threshold of the youngest generation to ``threshold``; 0 leaves it alone."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._before: tuple[int, int, int] | None = None

    def raise_it(self) -> None:
        """Raise the threshold, unless it is as high already or the collector is off."""
        youngest, *older = before = gc.get_threshold()
        if 0 < youngest < self._threshold:
            self._before = before
            gc.set_threshold(self._threshold, *older)

    def restore(self) -> None:
        """Give back the setting found, unless somebody else changed it meanwhile."""
        if self._before is not None and gc.get_threshold()[0] == self._threshold:
            gc.set_threshold(*self._before)
        self._before = None
