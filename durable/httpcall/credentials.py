"""Credentials of HTTP calls, by name: tokens and header values that exist only while a request is sent.

Rule of this file: a credential goes into the request's headers and nowhere else; no message shows one.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from durable.httpcall.errors import UnknownCredentialError
from durable.httpcall.headers import is_legal_value
from durable.httpcall.values import HttpRequest, Secret

TokenSource: TypeAlias = Callable[..., Awaitable[str]]
"""An async callable that returns a token or a secret: ``source()``, or ``source(resource)`` for a request with one.

It is asked for each request that is sent, so it should keep what is costly to get.
"""


async def outgoing_headers(request: HttpRequest, sources: Mapping[str, TokenSource]) -> dict[str, str]:
    """The headers of ``request`` as they are sent: its secrets looked up, its token added.

    Raises:
        UnknownCredentialError: a name is not in ``sources``.
        ValueError: a source returned what cannot be a header's value. What a source raises is passed on.
    """
    headers = {
        name: await _fetch(sources, value.name) if isinstance(value, Secret) else value
        for name, value in request.headers.items()
    }
    if request.token_source is not None:
        resource = () if request.token_resource is None else (request.token_resource,)
        headers["authorization"] = f"Bearer {await _fetch(sources, request.token_source, *resource)}"
    return headers


async def _fetch(sources: Mapping[str, TokenSource], name: str, *resource: str) -> str:
    if name not in sources:
        raise UnknownCredentialError(
            f"no token source or secret {name!r} is registered in this process; "
            f"registered: {', '.join(sorted(sources)) or 'none'}"
        )
    value = await sources[name](*resource)
    if not isinstance(value, str) or not value or not is_legal_value(value):
        raise ValueError(
            f"what token source {name!r} returned cannot be a header's value: it must be text of visible ASCII "
            "characters, not empty, without line breaks and without space at either end"
        )
    return value


class AccessToken(Protocol):
    """What a credential of azure-identity returns."""

    @property
    def token(self) -> str: ...


class Credential(Protocol):
    """A credential of azure-identity, or of its ``aio`` module; nothing of that package is imported here."""

    def get_token(self, *scopes: str) -> AccessToken | Awaitable[AccessToken]:
        """A token for the scopes, at once or awaitable."""
        ...


class AzureTokenSource:
    """A token source on a credential of azure-identity, which keeps its tokens until they expire.

    ``scope`` is that of the tokens, such as ``"https://management.azure.com/.default"``. A request's
    ``token_resource`` takes its place; ``/.default`` is added to a resource that does not end in it.
    """

    def __init__(self, credential: Credential, scope: str) -> None:
        self._credential = credential
        self._scope = scope

    async def __call__(self, resource: str | None = None) -> str:
        scope = self._scope if resource is None else f"{resource.removesuffix('/.default')}/.default"
        get_token = self._credential.get_token
        # The sync credentials block on the network.
        found = (
            get_token(scope) if inspect.iscoroutinefunction(get_token) else await asyncio.to_thread(get_token, scope)
        )
        return (await found if isinstance(found, Awaitable) else found).token
