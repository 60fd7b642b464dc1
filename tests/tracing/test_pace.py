"""The pace of the exporting thread: a part of what the instances leave idle, a small share in any case."""

from __future__ import annotations

import pytest

from durable_otel._pace import Pace


class Clocks:
    """The times of a process: of the wall, of this thread, and of all threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.mine = self.all = 100.0
        monkeypatch.setattr("durable_otel._pace.monotonic", lambda: self.wall)
        monkeypatch.setattr("durable_otel._pace.thread_time", lambda: self.mine)
        monkeypatch.setattr("durable_otel._pace.process_time", lambda: self.all)

    def passes(self, seconds: float, *, worked: float = 0.0, busy: float = 0.0) -> None:
        """So much time, in which this thread worked, and others kept a share of one processor busy."""
        self.wall += seconds
        self.mine += worked
        self.all += worked + busy * seconds


@pytest.mark.parametrize(
    ("busy", "share"), [(0.0, 0.25), (0.4, 0.15), (0.92, 0.05), (1.0, 0.05), (1.9, 0.05)], ids=lambda value: str(value)
)
def test_it_takes_a_quarter_of_what_is_idle_and_its_share_in_any_case(
    monkeypatch: pytest.MonkeyPatch, busy: float, share: float
) -> None:
    clocks, pace, worked = Clocks(monkeypatch), Pace(0.05), 0.0
    pace.begin()
    began = clocks.wall
    for _ in range(50):
        clocks.passes(0.004, worked=0.004, busy=busy)
        worked += 0.004
        clocks.passes(pace.rest(), busy=busy)
        pace.rested()
    assert worked / (clocks.wall - began) == pytest.approx(share, rel=0.05)


def test_it_does_not_rest_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, pace = Clocks(monkeypatch), Pace(0.05)
    pace.begin()
    clocks.passes(0.001, worked=0.001)
    assert pace.rest() == 0.0
    clocks.passes(0.003, worked=0.003)
    assert pace.rest() > 0.0


def test_a_share_of_one_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, pace = Clocks(monkeypatch), Pace(1.0)
    pace.begin()
    clocks.passes(5.0, worked=5.0, busy=1.0)
    assert pace.rest() == 0.0
