"""Fixtures that tests of all kinds share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mongodb_server import fresh_database, server_url


@pytest.fixture(scope="session")
def mongodb_url() -> Iterator[str]:
    """The URL of a MongoDB server, one for the whole session."""
    with server_url() as url:
        yield url


@pytest.fixture
def mongodb_database_url(mongodb_url: str) -> Iterator[str]:
    """The URL of a database that is the test's own."""
    with fresh_database(mongodb_url) as url:
        yield url
