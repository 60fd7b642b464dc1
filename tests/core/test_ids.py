"""Ids that are derived: the same in every version, as histories hold them."""

from __future__ import annotations

from uuid import NAMESPACE_OID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from durable.core.ids import child_execution_id, child_id

EXECUTIONS, CHILDREN = (uuid5(NAMESPACE_OID, name) for name in ("durable.execution", "durable.child"))


@given(st.text(max_size=300), st.text(max_size=40), st.integers(0, 10**6))
def test_ids_of_children_are_name_based_uuids(instance_id: str, execution_id: str, task_id: int) -> None:
    call = (instance_id, execution_id, task_id)
    name = f"{instance_id}/{execution_id}/{task_id}"
    assert child_execution_id(*call) == uuid5(EXECUTIONS, name).hex
    assert child_id(*call) == f"{instance_id[:200]}:{uuid5(CHILDREN, name).hex[:16]}"


def test_they_never_change() -> None:
    assert child_execution_id("order-1", "", 3) == "7e55ce737a1f5988bc314ed32296aaf6"
    assert child_id("order-1", "", 3) == "order-1:a91df5eb677153cd"
