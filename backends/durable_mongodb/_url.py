"""The backend's URL: a MongoDB connection string, plus ``driver=``, which is ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

_DEFAULT_DATABASE = "durable"
_DATABASE_NAME = re.compile(r"[^/\\. \"$\x00]{1,63}")
_SCHEMES = ("mongodb", "mongodb+srv")


class Driver(StrEnum):
    """The asyncio drivers that are supported; the values of ``driver=`` in the URL."""

    MOTOR = "motor"
    PYMONGO = "pymongo"


@dataclass(frozen=True, slots=True)
class MongoUrl:
    """A parsed URL. ``connection_string`` is what the driver gets; ``options`` are the names it sets, in lower case."""

    connection_string: str
    database: str
    driver: Driver
    options: frozenset[str]


def parse_url(url: str) -> MongoUrl:
    """Take a URL apart: ``mongodb://host:port/database?option=value&driver=motor``.

    The database is ``durable`` when the URL names none. Raises ValueError for another scheme, an
    impossible database name or an unknown driver; the message leaves out the URL, which may hold a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"a MongoDB URL starts with mongodb:// or mongodb+srv://, not with {parts.scheme!r}")
    database = unquote(parts.path.removeprefix("/")) or _DEFAULT_DATABASE
    if not _DATABASE_NAME.fullmatch(database):
        raise ValueError(
            f"database name {database!r} in the MongoDB URL must have 1 to 63 characters, "
            'and none of / \\ . " $ or a space'
        )
    driver, kept = Driver.MOTOR, []
    for option in filter(None, parts.query.split("&")):
        key, _, value = option.partition("=")
        if key.lower() == "driver":
            driver = _driver(value)
        else:
            kept.append((key.lower(), option))
    query = "&".join(option for _, option in kept)
    connection_string = parts._replace(path=parts.path or "/", query=query).geturl()
    _check(parts.scheme, connection_string)
    return MongoUrl(connection_string, database, driver, frozenset(key for key, _ in kept))


def _check(scheme: str, connection_string: str) -> None:
    if scheme == "mongodb+srv":  # it takes a name server to tell
        return
    try:
        parse_uri(connection_string)
    except (PyMongoError, ValueError) as error:
        raise ValueError(f"the MongoDB URL is not right: {error}") from error


def _driver(value: str) -> Driver:
    try:
        return Driver(value)
    except ValueError as error:
        known = " or ".join(Driver)
        raise ValueError(f"driver={value} in the MongoDB URL is not known; write driver={known}") from error
