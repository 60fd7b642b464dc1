"""URLs of HTTP calls: which are taken, what is one origin, and how to name one in a message.

Rule of this file: no message shows user info, a query or a fragment, for they may hold secrets.
"""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import urldefrag, urljoin, urlsplit

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""

_PORTS = {"http": 80, "https": 443}
# What URL parsers read differently: a backslash, and the white space that some of them drop.
_ODD = re.compile(r"[\\\s\x00-\x1f\x7f]")


def shown(url: str) -> str:
    """``url`` for messages: user info and query replaced by ``***``."""
    head, query, _ = url.partition("#")[0].partition("?")
    return re.sub(r"[^/]*@", "***@", head) + ("?***" if query else "")


def check_url(url: str) -> None:
    """Raise ValueError, naming the rule, unless ``url`` is one that a call may have."""
    name = f"URL {shown(url)!r}"
    if _ODD.search(url):
        raise ValueError(f"{name} has white space, a control character or a backslash; percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may show user info
        raise ValueError(f"{name} cannot be parsed") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{name} must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(
            f"{name} has credentials before its host, which would be written to history; "
            "give them by token_source or a Secret header"
        )
    if not parts.hostname:
        raise ValueError(f"{name} has no host")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"{name} has a port that is not a number from 0 to 65535") from None


def origin(url: str) -> Origin:
    """The origin of a URL that passed :func:`check_url`."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def resolve(base: str, location: str) -> str:
    """``location``, as a response from ``base`` gave it, as an absolute URL without fragment.

    Raises ValueError when that is none a call may have.
    """
    try:
        url = urldefrag(urljoin(base, location)).url
    except ValueError:
        raise ValueError(f"URL {shown(location)!r} cannot be parsed") from None
    check_url(url)
    return url


def without_query(url: str) -> str:
    """``url`` up to its path; enough to resolve relative URLs against."""
    return url.partition("#")[0].partition("?")[0]
