"""Text on a command line as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from durable.cli.exits import CommandError
from durable.cli.store import shown_url
from durable.cli.values import read_tags, read_time


@pytest.mark.parametrize(("text", "delta"), [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 30 * 86400)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_duration_counts_from_now(text: str, delta: int, sign: int) -> None:
    before = datetime.now(UTC)
    moment = read_time("--at", text, sign=sign)
    after = datetime.now(UTC)
    assert moment is not None
    assert before <= moment - sign * timedelta(seconds=delta) <= after


@pytest.mark.parametrize("text", ["2026-01-31T09:00:00Z", "2026-01-31T10:00:00+01:00", "2026-01-31 09:00Z"])
def test_a_time_needs_its_zone(text: str) -> None:
    assert read_time("--at", text, sign=1) == datetime(2026, 1, 31, 9, tzinfo=UTC)
    with pytest.raises(CommandError, match="has no time zone"):
        read_time("--at", "2026-01-31T09:00:00", sign=1)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "2026", "5 parsecs", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=f"--at '{text}' is no time"):
        read_time("--at", text, sign=1)


def test_a_duration_beyond_all_years_is_refused() -> None:
    with pytest.raises(CommandError, match="beyond the years"):
        read_time("--at", "900000000d", sign=1)


def test_tags() -> None:
    assert read_tags("--tag", ["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(CommandError, match="--tag '=x' is no tag"):
        read_tags("--tag", ["=x"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("mongodb://host/x", "mongodb://host/x"),
        ("mongodb://me@host/x", "mongodb://me@host/x"),
        ("mongodb://me:pass@a,b/x?y=z", "mongodb://me:***@a,b/x?y=z"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
