"""Queries of the storage port, and the tokens by which their pages follow each other.

Rule of this file: a token is a place in one order of one listing. It is made and taken apart here and nowhere else,
and one that no page gave is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal, TypeAlias

import orjson

from durable.core.state import RuntimeStatus
from durable.core.values import value

Grouping: TypeAlias = Literal["status", "name"]
"""What ``count`` counts by: a field of the record."""

_GROUPINGS = ("status", "name")
_LARGEST = 2**63 - 1


@value
class Query:
    """Which records to list: all conditions must hold, an empty one always does.

    Times are inclusive. Every pair of ``tags`` must be among the record's. ``custom_status`` is compared as the text
    that the record holds. Entities (their ids begin with ``@``) are listed with ``entities``, and only they are.
    Ordered by ``created_at`` then ``instance_id``, newest first unless ``oldest_first``. ``continuation`` is the token
    of the page before.
    """

    status: tuple[RuntimeStatus, ...] = ()
    name: str | None = None
    id_prefix: str | None = None
    created_from: int | None = None
    created_to: int | None = None
    updated_from: int | None = None
    updated_to: int | None = None
    tags: Mapping[str, str] | None = None
    custom_status: str | None = None
    oldest_first: bool = False
    page_size: int = 100
    continuation: str | None = None
    entities: bool = False


def continuation_of(query: Query, created_at: int, instance_id: str) -> str:
    """The token of a page of ``query`` that ends with this record."""
    return base64.urlsafe_b64encode(orjson.dumps([_order_of(query), created_at, instance_id])).decode()


def position_of(query: Query) -> tuple[int, str] | None:
    """``created_at`` and ``instance_id`` of the record that the page before ended with; None for the first page.

    Raises ValueError for a token that no page in this order gave.
    """
    token = query.continuation
    if token is None:
        return None
    try:
        order, created_at, instance_id = orjson.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError, TypeError) as error:
        raise _not_given(token) from error
    if type(created_at) is not int or abs(created_at) > _LARGEST or type(instance_id) is not str:
        raise _not_given(token)
    if order != _order_of(query):
        raise ValueError(f"continuation {token[:40]!r} is of a listing in the other order; begin anew")
    return created_at, instance_id


def check_grouping(by: str) -> Grouping:
    """Return ``by``. Raises ValueError, naming it, when records cannot be counted by it."""
    for grouping in _GROUPINGS:
        if by == grouping:
            return grouping  # type: ignore[return-value]
    raise ValueError(f"instances are counted by 'status' or 'name', not by {by!r}")


def _order_of(query: Query) -> str:
    return "oldest" if query.oldest_first else "newest"


def _not_given(token: str) -> ValueError:
    return ValueError(f"continuation {token[:40]!r} is not one that a page gave")
