"""Random ids: drawn for many at a time, and still each one a new one."""

from __future__ import annotations

import re

from durable.random_ids import RandomIds


def test_ids_are_drawn_on_and_on_and_no_two_are_alike() -> None:
    first, second = RandomIds(), RandomIds()
    drawn = [ids.draw() for _ in range(1000) for ids in (first, second)]
    assert len(set(drawn)) == 2000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in drawn)
