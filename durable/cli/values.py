"""Values on a command line: JSON, times, tags.

Rule of this file: text in, value out, or a CommandError that names the value and the rule.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from durable.cli.exits import CommandError
from durable.environment import parse_duration


def read_json(option: str, text: str) -> Any:
    """The JSON that ``text`` is, that the file ``@name`` holds, or (``-``) that stdin gives."""
    try:
        source = sys.stdin.read() if text == "-" else Path(text[1:]).read_text("utf-8") if text[:1] == "@" else text
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{option} {text}: cannot read it: {error}") from error
    try:
        return orjson.loads(source)
    except orjson.JSONDecodeError as error:
        hint = "; text needs quotes inside of the shell's: '\"text\"'" if text[:1] not in "@-[{" else ""
        raise CommandError(f"{option} {text!r} is not JSON: {error}{hint}") from error


def read_time(option: str, text: str | None, *, sign: int) -> datetime | None:
    """A moment: ISO 8601 with a zone, or a duration from now, onwards (``sign`` 1) or back (-1)."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) + sign * _duration(text)
    except ValueError:
        pass  # no duration: a date and time, then
    except OverflowError as error:
        raise CommandError(f"{option} {text!r} is beyond the years that there are") from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        direction = "from now" if sign > 0 else "ago"
        raise CommandError(
            f"{option} {text!r} is no time; write 2026-01-31T09:00:00Z, or 15m, 2h or 30d for that long {direction}"
        ) from error
    if moment.tzinfo is None:
        raise CommandError(
            f"{option} {text!r} has no time zone; end it with Z for UTC, or with an offset such as +01:00"
        )
    return moment


def _duration(text: str) -> timedelta:
    if text.isdigit():
        raise ValueError("a year, perhaps: a duration needs its unit here")
    return parse_duration(text)


def read_tags(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Tags written ``key=value``."""
    tags: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise CommandError(f"{option} {text!r} is no tag; write key=value")
        tags[key] = value
    return tags
