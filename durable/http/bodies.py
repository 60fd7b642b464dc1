"""Bodies of requests: read within a limit, then as JSON.

Rule of this file: bytes are counted as they come; what a request says of its length is not believed.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from durable.http.errors import BadRequestError


async def read_body(request: Request, limit: int) -> bytes:
    """The body. Raises HTTPException 413 as soon as there are more than ``limit`` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(
                413,
                f"the body has more than {limit:,} bytes, the limit here; store large values elsewhere, pass their key",
                headers={"Connection": "close"},
            )
    return bytes(body)


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case; empty when the request has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(body: bytes) -> Any:
    """The JSON value of a body that is not empty. Raises BadRequestError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
