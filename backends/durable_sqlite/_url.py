"""From a backend URL to a file and its options.

Rule of this file: whatever a URL can get wrong is found here, before any file is touched.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_DEFAULT_TIMEOUT = 5.0
_MAX_TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True)
class Location:
    """An absolute file path, and for how many seconds a lock of another process is waited for."""

    path: str
    timeout: float


def parse_url(url: str) -> Location:
    """The file that ``url`` names.

    Raises:
        ValueError: it is not ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with or without ``?timeout=``.
    """
    parts = urlsplit(url)
    if not url.startswith("sqlite://") or parts.netloc or parts.fragment:
        raise _not_a_file(url)
    return Location(_path(url, parts), _timeout(url, parts))


def _path(url: str, parts: SplitResult) -> str:
    path = unquote(parts.path[1:])
    if not path or ":memory:" in path:
        raise ValueError(
            f"{url!r} names no file: durable keeps SQLite state in one; for state in memory write memory://"
        )
    if path.endswith("/") or "\x00" in path:
        raise _not_a_file(url)
    return os.path.abspath(path)


def _timeout(url: str, parts: SplitResult) -> float:
    try:
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        unknown = sorted({key for key, _ in options} - {"timeout"})
        seconds = float(dict(options).get("timeout", _DEFAULT_TIMEOUT))
    except ValueError as error:
        raise ValueError(f"{url!r} has a bad query: write ?timeout=seconds ({error})") from error
    if unknown:
        raise ValueError(f"{url!r} has the unknown option {unknown[0]!r}; the only one is timeout, in seconds")
    if math.isnan(seconds) or not 0 < seconds <= _MAX_TIMEOUT:
        raise ValueError(
            f"{url!r} has timeout {seconds}; it must be more than 0 and at most {_MAX_TIMEOUT:.0f} seconds"
        )
    return seconds


def _not_a_file(url: str) -> ValueError:
    return ValueError(
        f"not a SQLite URL: {url!r}; write sqlite:///relative/path.db or, with four slashes, sqlite:////absolute/path.db"
    )
