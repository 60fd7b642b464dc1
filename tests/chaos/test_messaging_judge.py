"""The judge of instances that talk to each other must see what is broken: damage done by hand to a good hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from durable import Settings, TaskHub
from durable.testing.memory import MemoryBackend
from tests.chaos import messaging_workload, pattern_workload, workload
from tests.chaos.checker import StoredInstance
from tests.chaos.messaging_judge import each_execution
from tests.chaos.pattern_judge import pattern_findings, signal_findings
from tests.chaos.replaying import replay_findings
from tests.chaos.stores import read_memory
from tests.chaos.workload import Job

JOBS = {
    "bank": Job("transfer", ("a", "b", 6)),
    "kin": Job("family", (3,)),
    "stream": Job("eternal", (2, 3)),
    "votes": Job("tally", ("left", "middle")),
    "booked": Job("trip", (5, True)),
    "refused": Job("trip", (6, False)),
    "again": Job("retrying", (7,)),
    "line": Job("queued", (3,)),
    "kings": Job("generations", (8, 2)),
    "bundle": Job("batch", ([("a", "b", 3), ("c", "d", 4)],)),
}
SIGNALS = ["first", "second"]
Hub = dict[str, StoredInstance]


@pytest.fixture(scope="module")
def good() -> Hub:
    return asyncio.run(run_once())


async def run_once() -> Hub:
    workload.record_effects_with(lambda context: None)
    backend = MemoryBackend()
    hub = TaskHub(backend, settings=Settings(partitions=1))
    hub.include(pattern_workload.registry)
    async with hub.worker():
        for name, job in JOBS.items():
            handle = await hub.start(job.name, *job.args, instance_id=name)
            await handle.result(timeout=20)
        for entry in SIGNALS:
            await hub.signal_entity(messaging_workload.Counter.add, "clients", entry)
        async with asyncio.timeout(20):
            while backend.store.inbox or any(r.due_at is not None for r in backend.store.records.values()):
                await asyncio.sleep(0.01)
    return {instance.instance_id: instance for instance in read_memory(backend.store)}


def judged(hub: Hub, keep: int = 3) -> list[str]:
    instances = list(hub.values())
    signals = signal_findings(instances, "@counter@clients", SIGNALS, ["third"])
    return pattern_findings(instances, JOBS, {}, keep=keep) + signals


def test_a_good_hub_is_found_good(good: Hub) -> None:
    assert judged(good) == []
    assert replay_findings(each_execution(good.values()), pattern_workload.registry) == []


def with_output(hub: Hub, name: str, change: Callable[[Any], Any]) -> Hub:
    instance = hub[name]
    return hub | {name: replace(instance, output=json.dumps(change(json.loads(instance.output or "null"))))}


def without_an_event(hub: Hub) -> Hub:
    return with_output(hub, "stream", lambda got: got[1:])


def with_an_event_twice(hub: Hub) -> Hub:
    return with_output(hub, "stream", lambda got: [*got, got[-1]])


def with_events_out_of_order(hub: Hub) -> Hub:
    return with_output(hub, "stream", lambda got: got[::-1])


def with_another_sum(hub: Hub) -> Hub:
    return with_output(hub, "kin", lambda result: result | {"sum": 0})


def with_a_broken_lock(hub: Hub) -> Hub:
    return with_output(hub, "bank", lambda sums: [sums[0], sums[1] + 1])


def with_money_from_nowhere(hub: Hub) -> Hub:
    return with_output(hub, "@account@a", lambda state: state | {"balance": state["balance"] + 1})


def with_half_a_transfer(hub: Hub) -> Hub:
    return with_output(hub, "@account@b", lambda state: {"balance": 0, "moves": {}})


def with_an_operation_twice(hub: Hub) -> Hub:
    return with_output(hub, "@counter@left", lambda state: {"entries": [*state["entries"], state["entries"][0]]})


def without_an_operation(hub: Hub) -> Hub:
    return with_output(hub, "@counter@middle", lambda state: {"entries": state["entries"][1:]})


def with_operations_out_of_order(hub: Hub) -> Hub:
    return with_output(hub, "@counter@left", lambda state: {"entries": state["entries"][::-1]})


def with_a_message_twice(hub: Hub) -> Hub:
    instance = hub["@account@a"]
    first, *others = instance.checkpoints
    again = replace(others[0], events=[*others[0].events[:1], *others[0].events])
    return hub | {"@account@a": replace(instance, checkpoints=[first, again, *others[1:]])}


def with_a_reservation_kept(hub: Hub) -> Hub:
    return with_output(hub, "@stock@hotel", lambda state: {"moves": state["moves"] | {"refused": [6]}})


def with_a_reservation_undone(hub: Hub) -> Hub:
    return with_output(hub, "@stock@flight", lambda state: {"moves": state["moves"] | {"booked": [16, -16]}})


def with_another_trip(hub: Hub) -> Hub:
    return with_output(hub, "booked", lambda result: result + 1)


def with_a_retry_that_failed(hub: Hub) -> Hub:
    return with_output(hub, "again", lambda result: result | {"refusal": "none"})


def without_a_queued_call(hub: Hub) -> Hub:
    return with_output(hub, "line", lambda result: result[1:])


def without_a_generation(hub: Hub) -> Hub:
    return with_output(hub, "kings", lambda result: (result - 1) // 3)


def without_a_transfer(hub: Hub) -> Hub:
    return with_output(hub, "bundle", lambda result: result[1:])


def with_a_child_that_did_nothing(hub: Hub) -> Hub:
    def change(state: Any) -> Any:
        return {"balance": state["balance"] - 4, "moves": {k: v for k, v in state["moves"].items() if k != "bundle-1"}}

    return with_output(with_output(hub, "@account@d", change), "@account@c", lambda state: {"balance": 0, "moves": {}})


def without_a_signal(hub: Hub) -> Hub:
    return with_output(hub, "@counter@clients", lambda state: {"entries": state["entries"][1:]})


def with_a_signal_in_doubt_twice(hub: Hub) -> Hub:
    return with_output(hub, "@counter@clients", lambda state: {"entries": [*state["entries"], "third", "third"]})


def with_signals_out_of_order(hub: Hub) -> Hub:
    return with_output(hub, "@counter@clients", lambda state: {"entries": state["entries"][::-1]})


def without_a_checkpoint(hub: Hub) -> Hub:
    instance = hub["kin"]
    return hub | {"kin": replace(instance, checkpoints=[*instance.checkpoints[:1], *instance.checkpoints[2:]])}


def still_running(hub: Hub) -> Hub:
    return hub | {"bank": replace(hub["bank"], status="Running")}


def still_due(hub: Hub) -> Hub:
    return hub | {"@account@b": replace(hub["@account@b"], due_at=0)}


DAMAGES = [
    without_an_event,
    with_an_event_twice,
    with_events_out_of_order,
    with_another_sum,
    with_a_broken_lock,
    with_money_from_nowhere,
    with_half_a_transfer,
    with_an_operation_twice,
    without_an_operation,
    with_operations_out_of_order,
    with_a_message_twice,
    with_a_reservation_kept,
    with_a_reservation_undone,
    with_another_trip,
    with_a_retry_that_failed,
    without_a_queued_call,
    without_a_generation,
    without_a_transfer,
    with_a_child_that_did_nothing,
    without_a_signal,
    with_a_signal_in_doubt_twice,
    with_signals_out_of_order,
    without_a_checkpoint,
    still_running,
    still_due,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found(damage: Callable[[Hub], Hub], good: Hub) -> None:
    assert judged(damage(good)) != []


def test_a_signal_in_doubt_may_have_come(good: Hub) -> None:
    assert judged(with_output(good, "@counter@clients", lambda state: {"entries": [*state["entries"], "third"]})) == []


def test_a_history_that_should_be_gone_is_found(good: Hub) -> None:
    assert judged(good, keep=1) != []
