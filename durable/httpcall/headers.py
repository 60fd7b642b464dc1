"""Headers of HTTP calls: which are legal, which are credentials, and which belong to the body.

Rule of this file: whether a header is a credential is told by its name alone, and rather too often than too seldom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REDACTED = "***"
FUNCTIONS_KEY = "x-functions-key"
CONTENT = frozenset({"content-encoding", "content-language", "content-location", "content-md5", "content-type"})
"""Headers that describe the request's body, and go when it goes."""

_FRAMING = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~](?:[!-~ \t]*[!-~])?)?")
_KEYS = "access|account|api|app|application|auth|functions|host|master|private|sas|secret|shared|subscription"
_SENSITIVE = re.compile(
    r"(?:^|[-_])(?:authorization|cookie2?|credentials?|passw(?:or)?d|secret|(?:access|auth|csrf)?token|jwt"
    rf"|(?:{_KEYS})[-_]?key)(?:$|[-_])"
)


def check_method(method: str) -> None:
    """Raise ValueError unless ``method`` is a token of RFC 9110."""
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"HTTP method {method!r} must be letters, digits and !#$%&'*+.^_`|~- only, such as GET")


def check_name(name: str) -> None:
    """Raise ValueError unless a call may set the header ``name``."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"header name {name!r} must be letters, digits and !#$%&'*+.^_`|~- only")
    if name.lower() in _FRAMING:
        raise ValueError(f"header {name!r} follows from the URL, the body or the connection; leave it out")


def is_legal_value(value: str) -> bool:
    """Whether ``value`` can be sent: visible ASCII, with spaces and tabs between; so no line break."""
    return _VALUE.fullmatch(value) is not None


def is_sensitive(name: str) -> bool:
    """Whether the header ``name`` holds a credential.

    So do Authorization, Cookie and Set-Cookie, x-functions-key, and all names with a word such as ``token``,
    ``secret``, ``password``, ``api-key`` or ``subscription-key`` in them. Idempotency-Key and the like do not.
    """
    return _SENSITIVE.search(name.lower()) is not None


def redacted(headers: Mapping[str, object]) -> dict[str, str]:
    """``headers`` for logs and history: the value of each that is sensitive is ``***``."""
    return {name: REDACTED if is_sensitive(name) else str(value) for name, value in headers.items()}
