"""Finding instances: conditions checked, listings in pages, counts, and what is done to all that match.

Rule of this file: a condition is a value of a known type before it becomes part of a query; nothing that a caller hands
over can be an operator of a store. What is done to many is done page by page, and is safe to repeat.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from durable.backend import Page, Query
from durable.backend_queries import Grouping, check_grouping, position_of
from durable.client import Client
from durable.clock import from_datetime
from durable.core.errors import InstanceHeldError, InstanceNotFinishedError, InstanceNotFoundError
from durable.core.events import ExecutionTerminated
from durable.core.state import RuntimeStatus
from durable.handle import InstanceHandle, InstanceStatus, status_of
from durable.offload import stored_form
from durable.payloads import canonical, encode

Status: TypeAlias = RuntimeStatus | str
Between: TypeAlias = tuple[datetime | None, datetime | None]
Progress: TypeAlias = Callable[[int], object]

_MAX_PAGE = 1000


class Conditions(TypedDict, total=False):
    """What instances are looked for by; see ``TaskHub.query``."""

    status: Status | Sequence[Status] | None
    name: str | None
    id_prefix: str | None
    created_between: Between | None
    updated_between: Between | None
    tags: Mapping[str, str] | None
    custom_status: Any


@dataclass(frozen=True, slots=True)
class InstancePage:
    """One page of a listing; ``continuation`` leads to the next one, and is None on the last."""

    instances: tuple[InstanceStatus, ...]
    continuation: str | None


_PASSED_OVER = (InstanceNotFoundError, InstanceNotFinishedError, InstanceHeldError)
"""What may be the matter with an instance that was just listed: it went with its parent, was rewound, or is held."""


class InstanceQuery:
    """The instances that match some conditions. Made by ``TaskHub.query``; nothing is read before it is used.

    ``async for status in query`` gives each as InstanceStatus, every time from the beginning. What is there all the
    while comes exactly once.
    """

    def __init__(self, client: Callable[[], Client], query: Query) -> None:
        self._client = client
        self._query = query

    async def __aiter__(self) -> AsyncIterator[InstanceStatus]:
        async for page in self.pages():
            for status in page.instances:
                yield status

    async def pages(self) -> AsyncIterator[InstancePage]:
        """The instances page by page, from ``continuation`` on where one was given."""
        client = self._client()
        async for page in client.pages(self._query):
            whole = [await client.whole(record) for record in page.records]
            yield InstancePage(tuple(status_of(record) for record in whole if record is not None), page.continuation)

    async def count(self, by: Grouping = "status") -> dict[str, int]:
        """How many match, by status or name; order and pages play no part. Raises ValueError for any other ``by``."""
        return await self._client().count(self._query, check_grouping(by))

    async def terminate(self, reason: object = None, recursive: bool = True, progress: Progress | None = None) -> int:
        """Terminate those that have not ended, as ``InstanceHandle.terminate`` does; return how many were told.

        Newest first, so those that are created meanwhile are left alone. ``progress`` is called with the number so far
        after each page. Safe to repeat. Raises PayloadError for a ``reason`` that JSON cannot carry.
        """
        output, client, done = encode(reason, "the reason"), self._client(), 0
        async for page in self._pages_of(ended=False):
            await client.tell_all(page.records, lambda now, id_: ExecutionTerminated(now, output, recursive, id_))
            done += len(page.records)
            if progress is not None:
                progress(done)
        return done

    async def purge(self, recursive: bool = False, progress: Progress | None = None) -> int:
        """Purge those that have ended and are not held, for good; return how many instances are gone.

        ``recursive`` takes their sub-orchestrations along, as ``InstanceHandle.purge`` does. ``progress`` is called
        with the number so far after each page. Safe to repeat: after a doubt about the store, what went before is not
        counted again.
        """
        client, done = self._client(), 0
        async for page in self._pages_of(ended=True):
            ids = [record.instance_id for record in page.records if record.hold is None]
            if recursive:
                for instance_id in ids:
                    with suppress(*_PASSED_OVER):
                        done += await InstanceHandle(instance_id, self._client).purge(recursive=True)
            else:
                done += await client.purge_all(ids)
            if progress is not None:
                progress(done)
        return done

    async def _pages_of(self, *, ended: bool) -> AsyncIterator[Page]:
        query = self._query
        status = tuple(one for one in query.status or RuntimeStatus if one.is_terminal is ended)
        if not status:
            return
        if query.continuation is None:
            query = replace(query, oldest_first=False)
        async for page in self._client().pages(replace(query, status=status)):
            yield page


def make_query(
    *,
    status: Status | Sequence[Status] | None = None,
    name: str | None = None,
    id_prefix: str | None = None,
    created_between: Between | None = None,
    updated_between: Between | None = None,
    tags: Mapping[str, str] | None = None,
    custom_status: Any = None,
    order: Literal["newest", "oldest"] = "newest",
    page_size: int = 100,
    continuation: str | None = None,
) -> Query:
    """A checked query. Raises TypeError or ValueError naming the value that cannot be used, PayloadError for one that
    JSON cannot carry.
    """
    if type(page_size) is not int or not 1 <= page_size <= _MAX_PAGE:
        raise ValueError(f"page_size must be 1 to {_MAX_PAGE}, not {page_size!r}")
    if order not in ("newest", "oldest"):
        raise ValueError(f"order must be 'newest' or 'oldest', not {order!r}")
    created_from, created_to = _times("created_between", created_between)
    updated_from, updated_to = _times("updated_between", updated_between)
    if updated_to is not None:  # nothing changes before it is created, and the order of creation has an index
        created_to = updated_to if created_to is None else min(created_to, updated_to)
    query = Query(
        status=_statuses(status),
        name=_text("name", name),
        id_prefix=_text("id_prefix", id_prefix),
        created_from=created_from,
        created_to=created_to,
        updated_from=updated_from,
        updated_to=updated_to,
        tags=_tags(tags),
        custom_status=None if custom_status is None else stored_form(canonical(encode(custom_status, "custom_status"))),
        oldest_first=order == "oldest",
        page_size=page_size,
        continuation=_text("continuation", continuation),
    )
    position_of(query)  # raises
    return query


def _statuses(status: Status | Sequence[Status] | None) -> tuple[RuntimeStatus, ...]:
    if status is None:
        return ()
    if not isinstance(status, str | Sequence | Set):
        raise TypeError(f"status must be a RuntimeStatus or several, not {status!r}")
    wanted = [status] if isinstance(status, str) else list(status)
    if not wanted:
        raise ValueError("status must name at least one status, or be None for all; it is empty")
    for one in wanted:
        if not isinstance(one, str):
            raise TypeError(f"status must be a RuntimeStatus or several, not {one!r}")
    return tuple(dict.fromkeys(RuntimeStatus(one) for one in wanted))


def _text(what: str, text: object) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{what} must be text, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} {text!r} holds half of a character, which no store keeps") from None
    return str(text)


def _times(what: str, between: Between | None) -> tuple[int | None, int | None]:
    if between is None:
        return None, None
    if not isinstance(between, Sequence) or isinstance(between, str) or len(between) != 2:
        raise TypeError(f"{what} must be two times, (from, to), each a datetime or None, not {between!r}")
    first, last = (_time(what, moment) for moment in between)
    return first, last


def _time(what: str, moment: object) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TypeError(f"{what} must hold datetimes or None, not {moment!r}")
    return from_datetime(moment)


def _tags(tags: Mapping[str, str] | None) -> dict[str, str] | None:
    if tags is None:
        return None
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a mapping of text to text, not {tags!r}")
    for key, value in tags.items():
        if _text("a tag", key) is None or _text(f"tag {key!r}", value) is None:
            raise TypeError(f"tags must map text to text; got {key!r}: {value!r}")
    return dict(tags) or None
