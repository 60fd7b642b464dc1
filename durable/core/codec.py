"""History event <-> plain dict. Nothing else knows the stored form.

Rule of this file: a stored event is ``{"type": ..., <its fields>}``, readable in any database viewer;
a field that is None may be left out. A type or field it does not know raises UnsupportedHistoryError: a
history written by a newer version is parked, never guessed at and never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, get_args

from durable.core.errors import FailureDetails, UnsupportedHistoryError
from durable.core.event_parts import ForkOrigin, ParentInstance, PreviousAttempt, QueuePlace
from durable.core.events import HistoryEvent

FORMAT = 1
"""Version of the stored form, kept in each checkpoint; raise it when an old reader would misread."""

_PARTS = (ParentInstance, PreviousAttempt, ForkOrigin, QueuePlace)
_CLASSES: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(HistoryEvent)}
_FIELDS: dict[type[Any], tuple[str, ...]] = {
    cls: tuple(f.name for f in fields(cls) if f.init) for cls in (*_CLASSES.values(), FailureDetails, *_PARTS)
}


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        single = attrgetter(names[0])
        return lambda event: (single(event),)
    return attrgetter(*names)


_GETTERS = {cls: _getter(names) for cls, names in _FIELDS.items()}


def failure_to_dict(failure: FailureDetails) -> dict[str, Any]:
    """The stored form of a failure, its causes nested."""
    values = zip(_FIELDS[FailureDetails], _GETTERS[FailureDetails](failure), strict=True)
    stored = {name: value for name, value in values if value is not None}
    if failure.bases is not None:
        stored["bases"] = list(failure.bases)
    if failure.cause is not None:
        stored["cause"] = failure_to_dict(failure.cause)
    return stored


def failure_from_dict(stored: Mapping[str, Any]) -> FailureDetails:
    """The failure that :func:`failure_to_dict` stored."""
    cause = stored.get("cause")
    return FailureDetails(
        stored["error_type"],
        stored["message"],
        stored.get("stack_trace"),
        failure_from_dict(cause) if cause is not None else None,
        stored.get("non_retryable"),
        stored.get("retry_after"),
        tuple(stored["bases"]) if stored.get("bases") is not None else None,
    )


def _stored(value: Any) -> Any:
    """The stored form of a field that is not a plain value."""
    if type(value) is FailureDetails:
        return failure_to_dict(value)
    if type(value) in _PARTS:
        return {name: part for name in _FIELDS[type(value)] if (part := getattr(value, name)) is not None}
    if type(value) is tuple:
        return [_stored(part) for part in value]
    return event_to_dict(value) if type(value) in _FIELDS else value


_READ: dict[str, Callable[[Any], Any]] = {
    "failure": failure_from_dict,
    "parent": lambda stored: ParentInstance(**stored),
    "origin": lambda stored: ForkOrigin(**stored),
    "previous": lambda stored: PreviousAttempt(**stored),
    "queue": lambda stored: QueuePlace(**stored),
    "events": lambda stored: tuple(event_from_dict(one) for one in stored),
    "scheduled": lambda stored: tuple(event_from_dict(one) for one in stored),
    "lock_set": tuple,
    "children": tuple,
    "locked_by": tuple,
    "traces": lambda stored: tuple(map(tuple, stored)),
    "root": tuple,
}
"""How fields that hold more than a plain value are read, by name."""

_NESTED = {cls: tuple(name for name in _FIELDS[cls] if name in _READ) for cls in _CLASSES.values()}
"""Which of these a kind of event has."""


def _shallow(cls: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """A function that puts an event's type, and its fields that are not None, into a dictionary.

    Compiled for the class, as ``dataclass`` compiles ``__init__``: every event passes here, and a loop over names
    takes three times as long.
    """
    own = [f for f in fields(cls) if f.init]
    always = ", ".join(f'"{f.name}": event.{f.name}' for f in own if f.default is not None)
    lines = [f'stored = {{"type": "{cls.__name__}", {always}}}']
    for name in (f.name for f in own if f.default is None):
        lines += [f"if event.{name} is not None:", f'    stored["{name}"] = event.{name}']
    compiled: dict[str, Any] = {}
    exec("\n    ".join(["def shallow(event):", *lines, "return stored"]), compiled)  # of names of this package only
    shallow: Callable[[Any], dict[str, Any]] = compiled["shallow"]
    return shallow


_SHALLOW = {cls: _shallow(cls) for cls in _CLASSES.values()}


def shallow_dict(event: HistoryEvent) -> dict[str, Any]:
    """An event as a dictionary in which failures and other parts are still objects. As JSON, it is the stored form."""
    return _SHALLOW[type(event)](event)


def shallow_dicts(events: Iterable[HistoryEvent]) -> list[dict[str, Any]]:
    """:func:`shallow_dict` of each."""
    return [_SHALLOW[type(event)](event) for event in events]


def event_to_dict(event: HistoryEvent) -> dict[str, Any]:
    """The stored form of an event: JSON and BSON types only."""
    stored = _SHALLOW[type(event)](event)
    for name in _NESTED[type(event)]:
        if name in stored:
            stored[name] = _stored(stored[name])
    return stored


def _part(name: str, stored: Any) -> Any:
    """What a field that holds more than a plain value holds."""
    return None if stored is None else _READ[name](stored)


def _whole(cls: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    """A function that makes an event of ``cls`` from its stored form; KeyError for a field that is missing.

    Compiled, as :func:`_shallow`. By position: to match names that come from JSON with those of parameters takes Python
    longer than all the rest.
    """
    defaults: dict[str, Any] = {}
    values = []
    for field in (f for f in fields(cls) if f.init):
        value = f'stored["{field.name}"]'
        if field.default is not MISSING:
            defaults[field.name] = field.default
            value = f'get("{field.name}")' if field.default is None else f'get("{field.name}", _{field.name})'
        values.append(f'part("{field.name}", {value})' if field.name in _READ else value)
    known: dict[str, Any] = {"cls": cls, "part": _part} | {f"_{name}": value for name, value in defaults.items()}
    exec(f"def whole(stored):\n    get = stored.get\n    return cls({', '.join(values)})", known)
    whole: Callable[[Mapping[str, Any]], Any] = known["whole"]
    return whole


_WHOLE = {name: (frozenset(_FIELDS[cls]) | {"type"}, _whole(cls)) for name, cls in _CLASSES.items()}


def event_from_dict(stored: Mapping[str, Any]) -> HistoryEvent:
    """The event that :func:`event_to_dict` stored.

    Raises:
        UnsupportedHistoryError: the type, or a field of it, is not known to this version.
    """
    name = stored.get("type", "")
    found = _WHOLE.get(name)
    if found is None:
        raise UnsupportedHistoryError(
            f"history event of type {name!r} is not known to this version of durable; upgrade this worker"
        )
    known, whole = found
    if not stored.keys() <= known:
        raise UnsupportedHistoryError(
            f"history event {name} has fields that this version of durable does not know: "
            f"{', '.join(sorted(stored.keys() - known))}; upgrade this worker"
        )
    try:
        event: HistoryEvent = whole(stored)
    except (KeyError, TypeError) as error:
        raise UnsupportedHistoryError(
            f"history event {name} is not as this version of durable writes it ({error!r}); upgrade this worker"
        ) from error
    return event
