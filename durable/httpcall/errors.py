"""What goes wrong with an HTTP call.

Rule of this file: a status code is never an error. Messages show a URL without its query, and no header's value.
"""

from __future__ import annotations

from durable.core.errors import DurableError, NonRetryableError


class HttpCallError(DurableError):
    """A request got no response, or one that cannot be a result. Its kinds below say more."""


class HttpNotAllowedError(HttpCallError, NonRetryableError):
    """The hook ``allow`` refused the URL of a request, a redirect or a poll."""


class HttpRedirectError(HttpCallError):
    """Redirected too often, or to something that is not an HTTP URL."""


class HttpResponseError(HttpCallError):
    """The body of a response is too large, or is not text."""


class HttpPollingError(HttpCallError):
    """A 202 response names a ``Location`` that cannot be polled."""


class UnknownCredentialError(HttpCallError, NonRetryableError):
    """No token source or secret of that name is registered in this process."""
