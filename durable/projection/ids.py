"""Trace and span ids, derived from what identifies an instance: the same in every process and version.

Rule of this file: an id is the beginning of a SHA-256 over a versioned domain and its parts. The parts hold no
control characters, so a line break keeps them apart. W3C forbids the id zero.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal, TypeAlias

TraceMode: TypeAlias = Literal["own", "join"]
"""Whether an instance has a trace of its own, linked with its caller's, or is a part of the caller's trace."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


def _number(size: int, *parts: str) -> int:
    digest = sha256("\n".join(("durable/v1", *parts)).encode()).digest()
    return int.from_bytes(digest[:size]) or 1


def trace_id(hub: str, root_instance_id: str, root_execution_id: str) -> int:
    """The 128-bit trace id of an execution at the top of its tree, and of all below it."""
    return _number(16, "trace", hub, root_instance_id, root_execution_id)


def span_id(hub: str, instance_id: str, execution_id: str, key: str) -> int:
    """The 64-bit id of the span ``key`` of an execution: ``orchestration``, ``task:7``, ``task:7:attempt:2``."""
    return _number(8, "span", hub, instance_id, execution_id, key)


def parse_traceparent(text: str | None) -> tuple[int, int, int] | None:
    """Trace id, span id and flags of a W3C ``traceparent``; None for what is none."""
    found = _TRACEPARENT.fullmatch(text or "")
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    return (trace, span, flags) if trace and span else None
