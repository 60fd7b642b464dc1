"""The HTTP API of a task hub, as an ASGI application: the paths, payloads and status codes of Durable Functions.

Rule of this package: everything it knows it asks of the hub's public methods (but for pages of entities, which the hub
does not have), and every path is one row of the table in ``operations.py``, from which both the routes and the OpenAPI
document are made. It needs the extra ``http``; nothing below it imports it.
"""

try:
    import starlette as _starlette  # noqa: F401 - asked for first, so that what is missing has a clear message
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"the HTTP API needs the package {missing.name!r}; install it with: pip install 'durable-orchestrations[http]'",
        name=missing.name,
    ) from missing

from durable.http.access import Access, ApiKey, Authorizer, Bearer, api_key, bearer
from durable.http.app import create_app
from durable.http.links import create_check_status_response, create_http_management_payload
from durable.http.serving import http_server
from durable.http.starting import wait_for_completion_or_create_check_status_response

__all__ = [
    "Access",
    "ApiKey",
    "Authorizer",
    "Bearer",
    "api_key",
    "bearer",
    "create_app",
    "create_check_status_response",
    "create_http_management_payload",
    "http_server",
    "wait_for_completion_or_create_check_status_response",
]
