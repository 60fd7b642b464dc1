"""The conformance suite: every promise of :mod:`durable.backend`, as tests that a backend author runs.

It needs pytest and pytest-asyncio (``asyncio_mode = "auto"``). Subclass :class:`BackendConformance` in
a test module and give it a fixture ``backend_factory``: a function without parameters that
returns a new backend, not open, **on the same, at first empty store** at every call::

    from durable.testing.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend_factory(self, tmp_path):
            return lambda: MyBackend(tmp_path / "store")

What the port cannot show stays with the backend's own tests: that a crash keeps what was
acknowledged, and that stored events of an unknown type raise UnsupportedHistoryError.
"""

import pytest

_TOPICS = ("builders", "commits", "creation", "finding", "history", "keeping", "leases", "lifecycle")
_MORE_TOPICS = ("messages", "queries", "queues", "queue_limits", "settling", "starting", "upkeep", "watching", "work")
pytest.register_assert_rewrite(*(f"{__name__}.{topic}" for topic in _TOPICS + _MORE_TOPICS))

from durable.testing.conformance.commits import CommitConformance  # noqa: E402
from durable.testing.conformance.creation import CreationConformance  # noqa: E402
from durable.testing.conformance.finding import FindingConformance  # noqa: E402
from durable.testing.conformance.history import HistoryConformance  # noqa: E402
from durable.testing.conformance.keeping import KeepingConformance  # noqa: E402
from durable.testing.conformance.leases import LeaseConformance  # noqa: E402
from durable.testing.conformance.lifecycle import LifecycleConformance  # noqa: E402
from durable.testing.conformance.messages import MessageConformance  # noqa: E402
from durable.testing.conformance.queries import QueryConformance  # noqa: E402
from durable.testing.conformance.queue_limits import QueueLimitConformance  # noqa: E402
from durable.testing.conformance.queues import QueueConformance  # noqa: E402
from durable.testing.conformance.settling import SettleConformance  # noqa: E402
from durable.testing.conformance.starting import StartConformance  # noqa: E402
from durable.testing.conformance.upkeep import UpkeepConformance  # noqa: E402
from durable.testing.conformance.watching import WatchConformance  # noqa: E402
from durable.testing.conformance.work import WorkConformance  # noqa: E402

__all__ = ["BackendConformance"]


class BackendConformance(
    LifecycleConformance,
    CreationConformance,
    CommitConformance,
    SettleConformance,
    StartConformance,
    HistoryConformance,
    QueryConformance,
    FindingConformance,
    MessageConformance,
    WorkConformance,
    LeaseConformance,
    UpkeepConformance,
    KeepingConformance,
    WatchConformance,
    QueueConformance,
    QueueLimitConformance,
):
    """All promises of the storage port; needs the fixture ``backend_factory`` (see this module)."""
