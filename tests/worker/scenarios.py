"""What simulated scenarios are made of, by hypothesis or by a seed, whatever the instances in them do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.worker.messaging_simulation import MessagingScenario, simulate_messaging
from tests.worker.simulation import Outcome, Scenario, simulate

_CHOICES: Mapping[str, Sequence[Any]] = {
    "hubs": (1, 2, 3),
    "jobs": (1, 2, 3, 5, 10),
    "failures": (0.0, 0.05, 0.1, 0.3),
    "crashes": (0.0, 0.005, 0.02),
    "steals": (False, True),
    "cache": (1, 2, 10_000),
    "settles_on_commit": (False, True),
    "slowness": (0.0, 0.02, 0.1),
    "skew": (0.0, 0.5, 10.0),
    "duplicates": (0.0, 0.02, 0.1),
    "rivals": (0.0, 0.02, 0.1),
    "storm": (3.0, 6.0, 12.0),
    "turns": (0, 1, 3),
}
_MESSAGING_CHOICES: Mapping[str, Sequence[Any]] = {
    "roll": (20, 60, 2000),
    "keep": (1, 3, 1000),
    "disturbances": (0.0, 0.2, 0.6),
    "ahead": (1, 4, 5000),
    "patterns": (False, True),
}


def _strategies(choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: st.sampled_from(values) for name, values in choices.items()}


ANY_SCENARIO: dict[str, Any] = {"seed": st.integers(0, 2**32), **_strategies(_CHOICES)}
ANY_MESSAGING_SCENARIO: dict[str, Any] = ANY_SCENARIO | _strategies(_MESSAGING_CHOICES)


_QUIET = {
    "failures": 0.0,
    "crashes": 0.0,
    "steals": False,
    "slowness": 0.0,
    "skew": 0.0,
    "duplicates": 0.0,
    "rivals": 0.0,
}


def scenario_of(seed: int, *, quiet: bool = False) -> Scenario:
    """The scenario of that seed: every third one is of plain instances, the others talk to each other.

    In every tenth nothing goes wrong, and in ``quiet`` ones; then each instance must end in time, too.
    """
    random = Random(f"{seed}/scenario")
    chosen = {name: random.choice(values) for name, values in _CHOICES.items()}
    if quiet or seed % 10 == 9:
        chosen |= _QUIET
    if seed % 3 == 0:
        return Scenario(seed, **chosen)
    more = {name: random.choice(values) for name, values in _MESSAGING_CHOICES.items()}
    return MessagingScenario(seed, **chosen, **more)


def run_scenario(scenario: Scenario) -> Outcome:
    """Run a scenario of either kind."""
    return simulate_messaging(scenario) if isinstance(scenario, MessagingScenario) else simulate(scenario)
