"""Waiting for the end of a long operation that an HTTP service answered with 202.

Rule of this file: it runs inside an orchestrator, so it has no clock, randomness, input or output of its own.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from durable.httpcall.errors import HttpPollingError
from durable.httpcall.headers import FUNCTIONS_KEY
from durable.httpcall.redirects import without_body
from durable.httpcall.urls import origin, resolve, shown
from durable.httpcall.values import HttpRequest, HttpResponse

DEFAULT_POLL = 1.0
"""Seconds between polls where the response does not say."""
MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 86_400.0
"""The bounds, in seconds, that a ``Retry-After`` is held to: each poll is written to history."""


async def call_with_polling(
    send: Callable[[HttpRequest], Awaitable[HttpResponse]],
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]],
    request: HttpRequest,
    follow_202: bool = True,
    default_poll: float = DEFAULT_POLL,
) -> HttpResponse:
    """Send ``request``; while the answer is 202 with a ``Location``, wait and GET that. The last response.

    ``send`` makes the HTTP activity's call, ``now`` is the time of the turn (with a time zone), ``sleep`` a durable
    timer of so many seconds. The wait is the response's ``Retry-After``, from one second to one day, else
    ``default_poll`` seconds. It polls for as long as it is told to; put ``asyncio.timeout`` around it to bound it.

    Polls have the headers of ``request``, without those of its body and without ``x-functions-key``. Credentials go
    along while the ``Location``, and the response that named it, are of the origin of ``request``; once
    they are not, no later poll has any.

    Raises:
        HttpPollingError: a ``Location`` is not the URL of a call.
        ValueError: ``default_poll`` is not above zero. What ``send`` and ``sleep`` raise is passed on.
    """
    if not default_poll > 0:
        raise ValueError(f"default_poll {default_poll!r} must be a number of seconds above zero")
    response = await send(request)
    while follow_202 and response.status_code == 202 and response.headers.get("location"):
        request = _poll(request, response)
        wait = retry_after(response.headers.get("retry-after", ""), now())
        await sleep(default_poll if wait is None else wait)
        response = await send(request)
    return response


def retry_after(value: str, now: datetime) -> float | None:
    """The seconds that a ``Retry-After`` header asks to wait, held within bounds; None for one that says nothing.

    It is a number of seconds, or an HTTP date. ``now`` must have a time zone.
    """
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        seconds = float(value[:400].lstrip("0") or "0")
    else:
        try:
            date = parsedate_to_datetime(value)
            aware = date if date.tzinfo else date.replace(tzinfo=UTC)  # "-0000" is UTC of an unknown place
            seconds = (aware - now).total_seconds()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _poll(request: HttpRequest, response: HttpResponse) -> HttpRequest:
    asked = response.url or request.url
    try:
        url = resolve(asked, response.headers["location"])
    except ValueError as error:
        raise HttpPollingError(
            f"{request.method} {shown(request.url)} was answered by 202 with a Location that is refused: {error}"
        ) from error
    headers = {name: value for name, value in request.headers.items() if name != FUNCTIONS_KEY}
    following = without_body(replace(request, url=url, headers=headers))
    own = origin(url) == origin(asked) == origin(request.url)
    return following if own else following.without_credentials()
