"""The stores on which each limit is tried: those that users have."""

from tests.e2e.conftest import hub_url as hub_url
