"""JSON answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    """A JSON value as an answer. What comes out of the store is JSON already, so nothing is converted."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status, headers)

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return orjson.dumps(content)


def json_text(text: str) -> Response:
    """An answer whose body is JSON text already, such as a stored state."""
    return Response(text, 200, media_type="application/json")
