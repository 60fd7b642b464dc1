"""Requests that nobody vouches for: an API without an authorizer serves this machine only.

Rule of this file: in doubt a request is refused. It must have come to a loopback address of this machine, by no
proxy, under a loopback name, and not from a web page of another origin. The address is the one the server accepted
the connection on; what the client says about itself can only make it refused.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether ``host``, an address or a name, certainly means this machine; of names only ``localhost`` does."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def refusal(request: Request, allowed_origins: Collection[str]) -> str | None:
    """Why a request is not served without an authorizer; None: it may be."""
    server = request.scope.get("server")
    if server is None:
        return "the server does not say at which address it was reached"
    if not is_loopback(server[0]):  # nor is the path of a Unix socket: most often a proxy is behind it
        return f"the request came to {server[0]}, which is no loopback address"
    header = next((name for name in _FORWARDED if name in request.headers), None)
    if header is not None:
        return f"the request came through a proxy: it has the header {header!r}"
    # A page of another site can reach a loopback address under a name of its own, by DNS.
    host = request.headers.get("host", "")
    if not is_loopback(_name(f"//{host}")):
        return f"the request names the host {host[:80]!r}, which is no loopback name"
    origin = request.headers.get("origin")
    if origin is not None and origin not in allowed_origins and origin != f"{request.url.scheme}://{host}":
        return f"the request comes from a web page of another origin, {origin[:80]!r}"
    return None


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
