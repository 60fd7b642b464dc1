"""Finding a backend by the scheme of its URL."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol
from urllib.parse import urlsplit

from durable.backend import Backend


class BackendFactory(Protocol):
    """What an entry point of the group ``durable.backends`` names: a callable that makes a backend from a URL."""

    def __call__(self, url: str, hub: str) -> Backend: ...


def create_backend(url: str, hub: str) -> Backend:
    """The backend for ``url``, found by its scheme among the entry points ``durable.backends``.

    Raises:
        ValueError: no backend serves that scheme; the message lists those installed.
        ModuleNotFoundError: the backend's driver is not installed; the message names the extra.
    """
    return _find_factory(url)(url, hub)


async def list_hubs(url: str) -> list[str] | None:
    """The names of the task hubs in the store at ``url``, sorted; None when its backend cannot tell.

    Creates nothing. It asks the ``list_hubs(url)`` of the backend's class, a class method that a backend may have.
    Raises as :func:`create_backend`, and BackendUnavailable.
    """
    lister = getattr(getattr(_find_factory(url), "__self__", None), "list_hubs", None)
    return None if lister is None else sorted(await lister(url))


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """The backends by scheme. Asked once: it reads the metadata of every package there is, which takes 10 ms."""
    return {point.name: point for point in entry_points(group="durable.backends")}


def _find_factory(url: str) -> BackendFactory:
    scheme = urlsplit(url).scheme
    found = _installed()
    if scheme not in found:
        raise ValueError(
            f"no backend for the URL {url!r}: scheme {scheme!r} is not one of {', '.join(sorted(found)) or 'none'}"
        )
    factory: BackendFactory = found[scheme].load()
    return factory
