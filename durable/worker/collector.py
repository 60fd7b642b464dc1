"""Python's garbage collector while a worker runs.

Rule of this file: it changes a setting of the whole process, so it says so, gives it back, and can be
told not to. A worker allocates and frees thousands of objects a turn, all by reference counts; at
Python's default (700, or 2,000 from 3.13 on) the collector walks the young ones after every few turns
and finds nothing. docs/performance.md has the figures.
"""

from __future__ import annotations

import gc
import sys

_OLDER = (1, 40)
"""Thresholds of the middle and of the oldest generation. Python's default is 10 and 10, so the oldest is walked about
as often as by that. But while many instances begin, what ten collections of the youngest left would be walked in one
go, and nothing else happens meanwhile.
"""


class CollectorThreshold:
    """Raises the threshold of the youngest generation to ``threshold``, and has the older ones walked in small pieces;
    0 leaves them alone. From Python 3.14 on there is no middle one, and the others stay as they are.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._before: tuple[int, int, int] | None = None

    def raise_it(self) -> None:
        """Set the thresholds, unless the youngest has one as high already or the collector is off."""
        youngest, *older = before = gc.get_threshold()
        if 0 < youngest < self._threshold:
            self._before = before
            gc.set_threshold(self._threshold, *(_OLDER if sys.version_info < (3, 14) else older))

    def restore(self) -> None:
        """Give back the setting found, unless somebody else changed it meanwhile."""
        if self._before is not None and gc.get_threshold()[0] == self._threshold:
            gc.set_threshold(*self._before)
        self._before = None
