"""One request on its way through the API, and how an application was told to behave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from durable.http.access import Authorizer
from durable.http.parameters import Parameter

if TYPE_CHECKING:
    from durable.hub import TaskHub

T = TypeVar("T")

BASE_PATH = "/runtime/webhooks/durabletask"
"""Where Durable Functions has this API, and its clients expect it."""

MAX_BODY = 10 * 1024 * 1024
"""Bytes that a body may have: as many as a value may."""


@dataclass(frozen=True, slots=True)
class Options:
    """How an application behaves; see :func:`durable.http.create_app`."""

    base_path: str = BASE_PATH
    authorize: Authorizer | None = None
    allow_anonymous: bool = False
    max_body: int = MAX_BODY
    cors: tuple[str, ...] = ()
    trust_forwarded: bool = False
    retry_after: int | None = None


class Call:
    """A request that was let in, with its parameters read."""

    def __init__(self, hub: TaskHub, request: Request, options: Options, values: Mapping[str, Any]) -> None:
        self.hub = hub
        self.request = request
        self.options = options
        self._values = values

    def __getitem__(self, parameter: Parameter[T]) -> T:
        """The value of a parameter of this operation."""
        value: T = self._values[parameter.name]
        return value
