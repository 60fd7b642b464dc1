"""Who may do what: the authorizer's question, and the ready-made authorizers.

Rule of this file: an authorizer says yes with ``True`` and nothing else; secrets are compared in constant time and
never appear in a message.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Access:
    """One request, as an authorizer is asked about it.

    ``operation`` is the operation's id in the OpenAPI document, such as ``"terminateInstance"``. ``path`` is the path
    of the request, decoded. ``instance_id`` is the instance that it names, ``@name@key`` for an entity, None where it
    names none (a list, a bulk purge, a start that leaves the id to the hub).
    """

    method: str
    path: str
    operation: str
    instance_id: str | None
    request: Request

    @property
    def headers(self) -> Headers:
        """The headers of the request; names in any case."""
        return self.request.headers


Authorizer: TypeAlias = Callable[[Access], bool | Awaitable[bool]]
"""Returns True to let a request pass; anything else is 403. May raise Starlette's HTTPException, such as a 401."""


async def permit(authorize: Authorizer, access: Access) -> None:
    """Return if the authorizer lets the request pass, else raise HTTPException 403 (or what it raises itself)."""
    answer = authorize(access)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is not True:
        raise HTTPException(403, f"not allowed: {access.operation}")


@dataclass(frozen=True, slots=True)
class Bearer:
    """An authorizer that wants ``Authorization: Bearer`` with one of its tokens. Made by :func:`bearer`."""

    tokens: tuple[bytes, ...] = field(repr=False)

    def __call__(self, access: Access) -> bool:
        scheme, _, token = access.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _is_one_of(token.strip(), self.tokens):
            return True
        raise HTTPException(401, "a valid bearer token is needed", headers={"WWW-Authenticate": "Bearer"})

    @property
    def security_schemes(self) -> Mapping[str, Any]:
        """How the OpenAPI document describes it."""
        return {"bearer": {"type": "http", "scheme": "bearer"}}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An authorizer that wants one of its keys in a header or in the query. Made by :func:`api_key`."""

    keys: tuple[bytes, ...] = field(repr=False)
    header: str
    query: str | None

    def __call__(self, access: Access) -> bool:
        given = access.headers.get(self.header)
        if given is None and self.query is not None:
            given = access.request.query_params.get(self.query)
        if given is not None and _is_one_of(given, self.keys):
            return True
        raise HTTPException(401, "a valid key is needed", headers={"WWW-Authenticate": f'ApiKey name="{self.header}"'})

    @property
    def security_schemes(self) -> Mapping[str, Any]:
        """How the OpenAPI document describes it."""
        schemes = {"key": {"type": "apiKey", "in": "header", "name": self.header}}
        if self.query is not None:
            schemes["code"] = {"type": "apiKey", "in": "query", "name": self.query}
        return schemes


def bearer(tokens: str | Iterable[str]) -> Bearer:
    """An authorizer that wants ``Authorization: Bearer <token>``; several tokens let one be replaced by another.

    Requests without a valid one get 401. Raises ValueError for no token, or an empty one.
    """
    return Bearer(_secrets(tokens, "token"))


def api_key(keys: str | Iterable[str], *, header: str = "x-functions-key", query: str | None = "code") -> ApiKey:
    """An authorizer that wants a key in ``header``, or in the parameter ``query`` of the URL (None: not there).

    URLs end up in logs: prefer the header. Requests without a valid key get 401. Raises ValueError for no key, or an
    empty one.
    """
    return ApiKey(_secrets(keys, "key"), header, query)


def _secrets(given: str | Iterable[str], what: str) -> tuple[bytes, ...]:
    secrets = (given,) if isinstance(given, str) else tuple(given)
    if not secrets or not all(isinstance(one, str) and one.strip() for one in secrets):
        raise ValueError(f"give at least one {what}, and no empty one: with it everybody would be let in")
    return tuple(one.encode() for one in secrets)


def _is_one_of(given: str, secrets: tuple[bytes, ...]) -> bool:
    # All of them are compared: the time says nothing of which one fits.
    return sum(hmac.compare_digest(given.encode(), secret) for secret in secrets) > 0
