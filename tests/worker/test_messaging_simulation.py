"""Simulation of instances that talk to each other: whatever fails, all is told once, in order, and no lock is left.

As ``test_simulation.py``; a failing scenario is printed as ``MessagingScenario(...)``, to be given to
``simulate_messaging``. ``DURABLE_SIMULATION_EXAMPLES`` says how many are tried.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable.backend import Message
from durable.testing.memory_store import MemoryStore
from tests.worker.messaging_simulation import MessagingScenario, simulate_messaging
from tests.worker.scenarios import ANY_MESSAGING_SCENARIO
from tests.worker.simulation import Outcome

EXAMPLES = int(os.environ.get("DURABLE_SIMULATION_EXAMPLES", "100"))

scenarios = st.builds(MessagingScenario, **ANY_MESSAGING_SCENARIO)


@pytest.mark.slow
@pytest.mark.timeout(60 + 2 * EXAMPLES)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios)
def test_every_message_counts_once_through_faults(scenario: MessagingScenario) -> None:
    outcome = simulate_messaging(scenario)
    assert not outcome.findings, "\n".join(outcome.findings)


ROUGH = MessagingScenario(
    seed=3, hubs=3, jobs=10, failures=0.1, crashes=0.02, steals=True, cache=2, slowness=0.05, skew=0.5, roll=20, keep=3
)


def test_a_rough_scenario_is_rough_and_runs_the_same_way_every_time() -> None:
    outcome = simulate_messaging(ROUGH)
    assert outcome.findings == []
    assert outcome.crashes > 3
    assert outcome.acknowledged > 5
    assert simulate_messaging(ROUGH) == outcome


def test_nothing_is_found_in_quiet_scenarios_with_every_kind_of_job() -> None:
    for settles_on_commit in (True, False):
        quiet = MessagingScenario(5, jobs=18, failures=0.0, crashes=0.0, settles_on_commit=settles_on_commit)
        outcome = simulate_messaging(quiet)
        assert outcome.findings == []
        assert outcome.acknowledged == 18


def brings_again(store: MemoryStore, message: Message) -> None:
    """A store that does not know the messages any more that were taken in."""
    delivery = store.messages.get(message.message_id)
    if delivery is not None and delivery.consumed_at is not None:
        del store.messages[message.message_id]
    put_message(store, message)


def loses(store: MemoryStore, message: Message) -> None:
    """A store that loses what the third turn of an instance sends."""
    if "/00000002/" not in message.message_id:
        put_message(store, message)


put_message = MemoryStore.put_message


@pytest.mark.parametrize("broken", [brings_again, loses], ids=lambda broken: broken.__name__)
def test_a_store_that_breaks_its_promise_is_noticed(
    broken: Callable[[MemoryStore, Message], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStore, "put_message", broken)
    assert any(found(MessagingScenario(seed, jobs=9, hubs=3, failures=0.3)) for seed in range(20))


def found(scenario: MessagingScenario) -> list[str]:
    outcome: Outcome = simulate_messaging(scenario)
    return outcome.findings
