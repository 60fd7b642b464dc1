"""The activity that makes HTTP calls, on httpx.

Rule of this file: it returns a response for every status and raises when there is none, so that retry policies see
failures of the network only. Nothing is kept from one call to the next but connections: no cookies either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

from durable.httpcall.credentials import TokenSource, outgoing_headers
from durable.httpcall.errors import HttpCallError, HttpNotAllowedError, HttpRedirectError, HttpResponseError
from durable.httpcall.headers import redacted
from durable.httpcall.redirects import MAX_REDIRECTS, redirected
from durable.httpcall.urls import shown, without_query
from durable.httpcall.values import HttpRequest, HttpResponse
from durable.payloads import MAX_PAYLOAD

if TYPE_CHECKING:
    import httpx

DEFAULT_TIMEOUT = 100.0
"""Seconds that a call without a timeout of its own may take."""


class HttpCaller:
    """Makes HTTP calls: :meth:`call` is the activity. One client for each event loop, made at its first call.

    ``sources`` are the token sources and secrets by name. ``allow`` is asked about each URL before anything is sent to
    it - of the request, of every redirect, and so of every poll - in the normal form it is sent in; one for which
    it returns False is refused. ``timeout`` is that of requests without their own, in seconds. ``max_body`` is the
    limit of a response's body, in bytes after decompression.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenSource] | None = None,
        *,
        allow: Callable[[str], bool] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_body: int = MAX_PAYLOAD,
    ) -> None:
        self._sources = {} if sources is None else sources
        self._allow = allow
        self._timeout = timeout
        self._max_body = max_body
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    async def call(self, request: HttpRequest) -> HttpResponse:
        """Send ``request``, follow up to ten redirects, and return the response of whatever status.

        Raises:
            HttpNotAllowedError: ``allow`` refused a URL.
            HttpRedirectError: an eleventh redirect, or one to something that is not an HTTP URL.
            HttpResponseError: the body is larger than ``max_body``, or is not text.
            UnknownCredentialError: a token source or secret has a name that is not registered here.
            HttpCallError: no complete response came; the cause is httpx's error.
            TimeoutError: no complete response came in time.
            ModuleNotFoundError: httpx is not installed; the message names the extra.
        """
        timeout = self._timeout if request.timeout is None else request.timeout
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._follow(request)
        except TimeoutError as error:
            if not scope.expired():
                raise  # a token source's own
            raise TimeoutError(
                f"{request.method} {shown(request.url)} had no complete response within {timeout:g} s"
            ) from error

    async def close(self) -> None:
        """Close the client of the running loop. A later call makes a new one."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _follow(self, request: HttpRequest) -> HttpResponse:
        following = request
        for _ in range(MAX_REDIRECTS + 1):
            step = await self._exchange(following)
            if isinstance(step, HttpResponse):
                return step
            following = step
        raise HttpRedirectError(
            f"{request.method} {shown(request.url)} was redirected more than {MAX_REDIRECTS} times; "
            f"the last one was to {shown(following.url)}"
        )

    async def _exchange(self, request: HttpRequest) -> HttpRequest | HttpResponse:
        """The response, or the request that it redirects to."""
        client = self._client()
        import httpx  # now known to be there

        url = self._permitted(request)
        headers = await outgoing_headers(request, self._sources)
        try:
            async with client.stream(request.method, url, headers=headers, content=request.content) as response:
                following = redirected(request, response.status_code, response.headers.get("location"))
                return following or await self._result(request, response)
        except httpx.HTTPError as error:
            raise HttpCallError(
                f"{request.method} {shown(request.url)} got no complete response: {type(error).__name__}: {error}"
            ) from error

    def _permitted(self, request: HttpRequest) -> httpx.URL:
        import httpx

        try:
            url = httpx.URL(request.url)
            _ = url.host  # decoded only when asked for
        except (httpx.InvalidURL, ValueError) as error:  # ValueError: a host that IDNA does not know
            raise HttpCallError(f"{request.method} {shown(request.url)}: its URL cannot be sent: {error}") from error
        # What is asked about and what is sent are one object, so no two parsers can see two hosts.
        if self._allow is not None and not self._allow(str(url)):
            raise HttpNotAllowedError(f"{request.method} {shown(str(url))} is not allowed by this worker's policy")
        return url

    async def _result(self, request: HttpRequest, response: httpx.Response) -> HttpResponse:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_body:
                raise HttpResponseError(
                    f"the response to {request.method} {shown(request.url)} (status {response.status_code}) is larger "
                    f"than {self._max_body:,} bytes; fetch it in an activity of your own and return its key"
                )
        charset = response.charset_encoding or "utf-8"
        try:
            content = body.decode(charset)
        except (LookupError, ValueError) as error:
            raise HttpResponseError(
                f"the response to {request.method} {shown(request.url)} (status {response.status_code}, content type "
                f"{response.headers.get('content-type', 'unknown')!r}) is not {charset} text: {error}; "
                "fetch it in an activity of your own"
            ) from error
        return HttpResponse(response.status_code, redacted(response.headers), content, without_query(request.url))

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            for closed in [known for known in self._clients if known.is_closed()]:
                del self._clients[closed]
            client = self._clients[loop] = _new_client()
        return client


def _new_client() -> httpx.AsyncClient:
    try:
        import httpx
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"HTTP calls need the package {missing.name!r}; install it with: "
            "pip install 'durable-orchestrations[http]'",
            name=missing.name,
        ) from missing
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    # No timeouts of httpx's: one for the whole exchange is kept by the caller.
    return httpx.AsyncClient(cookies=no_cookies, timeout=None, follow_redirects=False)
