"""The request and the response of a durable HTTP call, as history records them.

Rule of this file: no credential is ever part of a value. A request names its credentials; what a response brings
is redacted before it becomes an :class:`HttpResponse`. Bodies and URLs are recorded as they are, queries included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from durable.httpcall.headers import check_method, check_name, is_legal_value, is_sensitive
from durable.httpcall.urls import check_url, shown
from durable.payloads import decode, encode

ACTIVITY_NAME = "BuiltIn::HttpActivity"
"""The name of the activity that makes HTTP calls. Users' activities must not take it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The value of a header by name; the worker that sends the request looks it up among its token sources."""

    name: str


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request. ``method`` is kept in upper case, header names in lower case.

    ``timeout`` bounds the whole exchange with its redirects, in seconds; None leaves it to the worker.
    ``token_source`` names the source of a bearer token, ``token_resource`` is handed to it. A header that holds
    a credential must be a :class:`Secret`. Headers that follow from URL and body (Host, Content-Length) are refused.

    Raises:
        ValueError: a part breaks a rule; the message names both.
    """

    method: str
    url: str
    headers: dict[str, str | Secret] = field(default_factory=dict)
    content: str | None = None
    timeout: float | None = None
    token_source: str | None = None
    token_resource: str | None = None

    def __post_init__(self) -> None:
        check_method(self.method)
        check_url(self.url)
        object.__setattr__(self, "method", self.method.upper())
        object.__setattr__(self, "headers", _checked(self.headers))
        if self.timeout is not None and not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout {self.timeout!r} must be a number of seconds above zero")
        if self.token_source == "":
            raise ValueError("token_source '' must be the name of a token source")
        if self.token_resource is not None and self.token_source is None:
            raise ValueError(f"token_resource {self.token_resource!r} needs a token_source")
        if self.token_source is not None and "authorization" in self.headers:
            raise ValueError(f"both token_source {self.token_source!r} and a header 'authorization'; give one of them")

    @classmethod
    def of(
        cls,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str | Secret] | None = None,
        json: object = None,
        content: str | None = None,
        timeout: float | None = None,
        token_source: str | None = None,
        token_resource: str | None = None,
    ) -> Self:
        """A request as ``call_http`` takes it. ``json`` is written as JSON; None is no body (``content="null"`` is).

        Raises:
            ValueError: both ``json`` and ``content``, or what :class:`HttpRequest` raises.
            PayloadError: ``json`` has no JSON form, or is too large.
        """
        request = cls(method, url, dict(headers or {}), content, timeout, token_source, token_resource)
        if json is None:
            return request
        if content is not None:
            raise ValueError(f"both json and content for {method} {shown(url)}; give one of them")
        body = encode(json, f"the JSON body of {method} {shown(url)}")
        return replace(request, headers={"content-type": "application/json", **request.headers}, content=body)

    def without_credentials(self) -> Self:
        """This request for another origin: no token source, and no header that is a secret."""
        headers: dict[str, str | Secret] = {
            name: value for name, value in self.headers.items() if not isinstance(value, Secret)
        }
        return replace(self, headers=headers, token_source=None, token_resource=None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response of any status. Header names are in lower case; those with credentials have the value ``***``.

    ``content`` is the body as text. Several headers of one name are joined by ``", "``. ``url`` is where the
    response came from, after redirects and without the query; empty means the URL that was asked.
    """

    status_code: int
    headers: dict[str, str] = field(default_factory=dict)
    content: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", {name.lower(): value for name, value in self.headers.items()})

    @property
    def ok(self) -> bool:
        """Whether the status is one of success: 200 to 299."""
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        """The body, read as JSON. Raises ValueError when it is none."""
        try:
            return decode(self.content)
        except ValueError as error:
            raise ValueError(
                f"the body of the response with status {self.status_code} is not JSON: {error} "
                f"(it starts {self.content[:80]!r})"
            ) from error


def _checked(headers: Mapping[str, str | Secret]) -> dict[str, str | Secret]:
    result: dict[str, str | Secret] = {}
    for given, value in headers.items():
        check_name(given)
        name = given.lower()
        if name in result:
            raise ValueError(f"header {given!r} is given twice, in different case")
        if not isinstance(value, Secret):
            _check_literal(given, value)
        elif not value.name:
            raise ValueError(f"the secret of header {given!r} has no name")
        result[name] = value
    return result


def _check_literal(name: str, value: str) -> None:
    if is_sensitive(name):  # first: no message may show the value
        raise ValueError(
            f"header {name!r} holds a credential, and its value would be written to history; "
            "use token_source='name' for a bearer token, or Secret('name') as the value"
        )
    if not isinstance(value, str) or not is_legal_value(value):
        raise ValueError(
            f"header {name!r}: {value!r} must be text of visible ASCII characters, with spaces and tabs only between"
        )
