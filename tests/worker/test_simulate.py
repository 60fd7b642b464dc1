"""The command that runs many schedules: its report, its exit status, and that a seed can be run again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from durable.backend import Message
from durable.testing.memory_store import MemoryStore
from tests.worker import simulate
from tests.worker.scenarios import run_scenario, scenario_of

ROOT = Path(__file__).parents[2]
FAULTS = {
    "fail before",
    "fail partway",
    "fail after",
    "fail later",
    "crash before",
    "crash after",
    "crash elsewhere",
    "arrived twice",
    "conflict",
    "delayed",
    "hint lost",
    "lease stolen",
    "overtaken",
}


def test_the_report_tells_how_rough_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--seeds", "24", "--jobs", "2"]) == 0
    report = dict(re.findall(r"^ *([^:]+): +(\d+)", capsys.readouterr().out, re.MULTILINE))
    assert {kind for kind in FAULTS if not int(report.get(kind, "0"))} == set()
    assert int(report["schedules"]) == 24
    assert int(report["findings"]) == 0
    assert int(report["faults"]) == sum(
        int(number) for kind, number in report.items() if kind in FAULTS | {"crash partway"}
    )


def test_a_seed_is_the_same_schedule_every_time() -> None:
    for seed in (3, 4, 5):
        assert run_scenario(scenario_of(seed)) == run_scenario(scenario_of(seed))


def test_a_seed_is_the_same_schedule_in_every_process() -> None:
    told = {_outcomes((104300, 104306, 104347), hashes) for hashes in ("0", "1")}
    assert len(told) == 1


def _outcomes(seeds: tuple[int, ...], hashes: str) -> str:
    """What becomes of these schedules in a process whose strings hash as that says."""
    program = (
        "from tests.worker.scenarios import run_scenario, scenario_of\n"
        f"print([run_scenario(scenario_of(seed)) for seed in {seeds}])"
    )
    surroundings = {**os.environ, "PYTHONHASHSEED": hashes}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, check=True, text=True
    )
    return ran.stdout


def test_a_finding_ends_it_with_status_1_and_names_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loses(store: MemoryStore, message: Message) -> None:
        """Lose what the third turn of an instance sends."""
        if "/00000002/" not in message.message_id:
            put_message(store, message)

    put_message = MemoryStore.put_message
    monkeypatch.setattr(MemoryStore, "put_message", loses)
    assert simulate.main(["--seeds", "12", "--jobs", "1"]) == 1
    seed, scenario = re.findall(
        r"^FINDING seed (\d+): .*, (\w+Scenario\(.*\))$", capsys.readouterr().out, re.MULTILINE
    )[0]
    assert repr(scenario_of(int(seed))) == scenario
