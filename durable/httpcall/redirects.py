"""Redirects: the request that follows from a response.

Rule of this file: methods change as in browsers, and credentials never leave the origin they were meant for; once
dropped they do not come back.
"""

from __future__ import annotations

from dataclasses import replace

from durable.httpcall.errors import HttpRedirectError
from durable.httpcall.headers import CONTENT
from durable.httpcall.urls import origin, resolve, shown
from durable.httpcall.values import HttpRequest

MAX_REDIRECTS = 10
_STATUSES = frozenset({301, 302, 303, 307, 308})


def redirected(request: HttpRequest, status: int, location: str | None) -> HttpRequest | None:
    """The request to make after a response with ``status`` and ``location``; None when that is the result.

    Raises:
        HttpRedirectError: ``location`` is not the URL of a call.
    """
    if status not in _STATUSES or not location:
        return None
    try:
        url = resolve(request.url, location)
    except ValueError as error:
        raise HttpRedirectError(
            f"{request.method} {shown(request.url)} was redirected ({status}), which is refused: {error}"
        ) from error
    following = replace(request, url=url)
    if origin(url) != origin(request.url):
        following = following.without_credentials()
    return without_body(following) if _becomes_get(status, request.method) else following


def without_body(request: HttpRequest) -> HttpRequest:
    """``request`` as a GET: without its body and the headers that describe it."""
    headers = {name: value for name, value in request.headers.items() if name not in CONTENT}
    return replace(request, method="GET", headers=headers, content=None)


def _becomes_get(status: int, method: str) -> bool:
    return method == "POST" if status in (301, 302) else status == 303 and method not in ("GET", "HEAD")
