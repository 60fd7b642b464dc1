"""Links: the URLs by which a client follows an instance, and the 202 that carries them.

Rule of this file: links have the origin that the request came to, and what a proxy says of it counts only where the
application was told to trust it. Ids are percent-encoded; ``{eventName}`` and ``{text}`` are left for the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from durable.core.ids import check_instance_id
from durable.http.calls import Options
from durable.http.responses import JsonResponse

FIRST_POLL = 10
"""Seconds after which a client is told to look for the first time; later it is told :data:`NEXT_POLL`."""
NEXT_POLL = 5

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def origin_of(request: Request, *, trust_forwarded: bool) -> str:
    """The origin and the path prefix that the client sees, as ``https://host/prefix`` without a slash at the end."""
    scheme, host, prefix = request.url.scheme, request.headers.get("host", ""), ""
    if trust_forwarded:
        said = _forwarded(request, "proto").lower()
        scheme = said if said in ("http", "https") else scheme
        said = _forwarded(request, "host")
        host = said if _AUTHORITY.fullmatch(said) else host
        prefix = quote(_forwarded(request, "prefix").strip("/"), safe="/%")
    if not _AUTHORITY.fullmatch(host):
        host = _server(request)
    root = quote(request.scope.get("root_path", "").strip("/"), safe="/")
    return "/".join(part for part in (f"{scheme}://{host}", prefix, root) if part)


def _forwarded(request: Request, what: str) -> str:
    """Of several proxies the first one's word: it stands where the client does."""
    return request.headers.get(f"x-forwarded-{what}", "").partition(",")[0].strip()


def _server(request: Request) -> str:
    host, port = request.scope.get("server") or ("localhost", None)
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def payload_at(base_url: str, instance_id: str, code: str | None = None) -> dict[str, str]:
    """The links of an instance in the API at ``base_url``, with the key ``code`` in their query if it is given."""
    instance = f"{base_url}/instances/{quote(instance_id, safe='')}"
    key = urlencode({"code": code}) if code else ""
    plain, with_reason = f"?{key}" if key else "", "?reason={text}" + (f"&{key}" if key else "")
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}{plain}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}{plain}",
        "terminatePostUri": f"{instance}/terminate{with_reason}",
        "rewindPostUri": f"{instance}/rewind{with_reason}",
        "purgeHistoryDeleteUri": f"{instance}{plain}",
        "restartPostUri": f"{instance}/restart{plain}",
        "suspendPostUri": f"{instance}/suspend{with_reason}",
        "resumePostUri": f"{instance}/resume{with_reason}",
    }


def own_payload(request: Request, options: Options, instance_id: str) -> dict[str, str]:
    """The links of an instance in the API that ``request`` came to; a key in its query goes along."""
    base_url = origin_of(request, trust_forwarded=options.trust_forwarded) + options.base_path
    return payload_at(base_url, instance_id, request.query_params.get("code"))


def accepted(payload: dict[str, str], options: Options) -> Response:
    """202 with the links of an instance."""
    wait = options.retry_after or FIRST_POLL
    return JsonResponse(payload, 202, {"Location": payload["statusQueryGetUri"], "Retry-After": str(wait)})


# --- for users' own endpoints ------------------------------------------------------------


def create_http_management_payload(
    request: Request, instance_id: str, *, base_url: str | None = None
) -> dict[str, str]:
    """The links by which a client follows an instance, for an endpoint of your own.

    They lead to the hub's API that is mounted in the application that ``request`` came to, under the origin that it
    came to. Where the API is elsewhere, or is mounted twice, give its ``base_url``, with the base path:
    ``https://host/durable/runtime/webhooks/durabletask``. Raises ValueError for a bad instance id, and when no API,
    or more than one, is found.
    """
    links, _ = _links_and_options(request, instance_id, base_url)
    return links


def create_check_status_response(request: Request, instance_id: str, *, base_url: str | None = None) -> Response:
    """202 with those links as its body, ``Location`` and ``Retry-After``. Raises ValueError as above."""
    return accepted(*_links_and_options(request, instance_id, base_url))


def _links_and_options(request: Request, instance_id: str, base_url: str | None) -> tuple[dict[str, str], Options]:
    check_instance_id(instance_id)
    if base_url is not None:
        return payload_at(base_url.rstrip("/"), instance_id), Options()
    found = list(_mounted(request.app.routes, ""))
    if len(found) != 1:
        raise ValueError(
            f"this application has {len(found)} HTTP APIs of task hubs mounted; "
            + ("say which one by base_url" if found else "mount hub.http_app(), or give base_url")
        )
    path, options = found[0]
    origin = origin_of(request, trust_forwarded=options.trust_forwarded)
    return payload_at(f"{origin}{path}{options.base_path}", instance_id), options


def _mounted(routes: Sequence[BaseRoute], path: str) -> Iterator[tuple[str, Options]]:
    for route in routes:
        if isinstance(route, Mount):
            options = options_of(route.app)
            if options is not None:
                yield path + quote(route.path), options
            else:
                yield from _mounted(route.routes, path + quote(route.path))


def options_of(app: Any) -> Options | None:
    """How an application behaves, if it is an API of a hub."""
    options = getattr(app.state, "durable", None) if isinstance(app, Starlette) else None
    return options if isinstance(options, Options) else None
