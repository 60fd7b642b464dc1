"""Simulation: whatever fails, lags, dies or quarrels, the promises are kept; checked by the model of the chaos tests.

A failing scenario is printed as ``Scenario(seed=..., ...)``; give that to ``simulate`` to run it again.
``DURABLE_SIMULATION_EXAMPLES`` says how many are tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable.backend import Commit, CommitOutcome
from durable.testing.memory import MemoryBackend
from durable.testing.memory_store import MemoryStore
from tests.worker.scenarios import ANY_SCENARIO, run_scenario, scenario_of
from tests.worker.simulation import Outcome, Scenario, simulate

EXAMPLES = int(os.environ.get("DURABLE_SIMULATION_EXAMPLES", "300"))

scenarios = st.builds(Scenario, **ANY_SCENARIO)


@pytest.mark.slow
@pytest.mark.timeout(60 + EXAMPLES)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(scenario=scenarios)
def test_every_promise_is_kept_through_faults(scenario: Scenario) -> None:
    outcome = simulate(scenario)
    assert not outcome.findings, "\n".join(outcome.findings)


@pytest.mark.parametrize("seed", [*range(60), 107, 202, 1931, 2159])  # the last met hints that did not say what of
def test_nothing_waits_for_a_scan_where_nothing_goes_wrong(seed: int) -> None:
    outcome = run_scenario(scenario_of(seed, quiet=True))
    assert not outcome.findings, "\n".join(outcome.findings)


ROUGH = Scenario(seed=7, hubs=3, jobs=10, failures=0.2, crashes=0.02, steals=True, cache=1, slowness=0.1, skew=0.5)


def test_a_rough_scenario_is_rough() -> None:
    outcome = simulate(ROUGH)
    assert outcome.findings == []
    assert outcome.crashes > 3
    assert outcome.acknowledged > 3
    assert outcome.executions > outcome.acknowledged
    assert sum(fault.startswith("fail") for *_, fault in outcome.trace) > 20


def test_a_scenario_runs_the_same_way_every_time() -> None:
    """In this process and in others with other hashes: else a failing one could not be run again."""
    assert simulate(ROUGH) == simulate(ROUGH)
    program = "from tests.worker.test_simulation import *; print(fingerprint(simulate(ROUGH)))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint(simulate(ROUGH))}


def fingerprint(outcome: Outcome) -> str:
    return f"{len(outcome.trace)} {outcome.executions} {outcome.trace[-1]}"


def overwrites(backend: MemoryBackend, store: MemoryStore, commit: Commit) -> CommitOutcome:
    """A store whose insert is not unique: of two writers the later wins."""
    kept = store.history.get(commit.checkpoint.instance_id, {})
    kept.pop((commit.checkpoint.execution_id, commit.checkpoint.seq), None)
    return commit_one(backend, store, commit)


def forgets(backend: MemoryBackend, store: MemoryStore, commit: Commit) -> CommitOutcome:
    """A store that confirms some commits and does not keep them."""
    if commit.checkpoint.seq == 2 and crc32(commit.checkpoint.token.encode()) % 20 == 0:
        return CommitOutcome.COMMITTED
    return commit_one(backend, store, commit)


commit_one = MemoryBackend._commit_one

SEEDS_THAT_END = range(9)
"""With such a store some seeds have the workers go in circles for ever. Here one that finds something comes first."""


@pytest.mark.parametrize("broken", [overwrites, forgets], ids=lambda broken: broken.__name__)
def test_a_store_that_breaks_its_promise_is_noticed(
    broken: Callable[[MemoryBackend, MemoryStore, Commit], CommitOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryBackend, "_commit_one", broken)
    assert any(simulate(Scenario(seed, jobs=8, steals=True, slowness=0.1)).findings for seed in SEEDS_THAT_END)
