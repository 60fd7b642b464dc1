"""Every backend of this project keeps every promise of the storage port."""

from __future__ import annotations

from collections import Counter

from durable.testing.conformance import BackendConformance


class TestConformance(BackendConformance):
    pass


def test_no_promise_hides_another_of_the_same_name() -> None:
    topics = [cls for cls in BackendConformance.__mro__ if cls is not object]
    names = Counter(name for cls in topics for name in vars(cls) if name.startswith("test_"))
    assert names
    assert [name for name, count in names.items() if count > 1] == []
