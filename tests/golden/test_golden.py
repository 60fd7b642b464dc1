"""Every history ever kept replays on this version, decision for decision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from durable import anyio_order
from durable.core.codec import event_from_dict
from durable.core.events import ExecutionStarted
from durable.core.replay import Orchestration
from durable.core.turns import split_turns
from durable.testing.memory import MemoryBackend
from durable.worker.services import WorkerServices

from .record import RECORDINGS, open_hub

anyio_order.install()  # as a worker does

FOLDER = Path(__file__).parent
HISTORIES = sorted(FOLDER.glob("*.json"))
registry = open_hub(MemoryBackend())  # as a hub, it also knows the activity of HTTP calls


def test_there_is_one_of_each_orchestrator() -> None:
    assert {path.stem for path in HISTORIES} >= RECORDINGS.keys()
    ours = {name for name in registry.orchestrators if not name.startswith("BuiltIn::")}
    assert {recording.orchestrator for recording in RECORDINGS.values()} >= ours


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_replays(path: Path) -> None:
    history = [event_from_dict(event) for event in json.loads(path.read_text())]
    started = history[0]
    assert isinstance(started, ExecutionStarted)
    definition = registry.orchestrators[started.name]
    orchestration = Orchestration(started, definition.begin, WorkerServices(registry), strict=True)
    for _ in orchestration.replay(split_turns(history)):
        pass
    assert orchestration.length == len(history)
    orchestration.discard()


@pytest.mark.parametrize("seed", range(5))
def test_replays_whatever_the_hash_seed(seed: int) -> None:
    """Order must not hang on addresses or hash seeds, which differ in every process."""
    options = ["-q", "-p", "no:cacheprovider", "-k", "test_replays and not seed"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env={"PYTHONHASHSEED": str(seed), "PATH": ""},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
