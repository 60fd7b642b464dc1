"""Random orchestrators do what the same code does in plain asyncio, and do it again from any part of their history.

``DURABLE_PROGRAM_EXAMPLES`` sets how many are tried.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from durable.core import events as ev
from durable.core.codec import event_from_dict, event_to_dict
from durable.core.replay import Orchestration
from durable.core.turns import split_turns

from .driving import Services, replayed
from .random_runs import CORPUS, LOGS, REGISTRY, Run, digests, random_run

EXAMPLES = int(os.environ.get("DURABLE_PROGRAM_EXAMPLES", "250"))
ROOT = Path(__file__).resolve().parents[2]

ENDS = (ev.ContinueAsNew, ev.ExecutionCompleted)
ANSWERED_BY: dict[type[Any], tuple[type[Any], ...]] = {
    ev.TaskScheduled: (ev.TaskCompleted, ev.TaskFailed),
    ev.TimerCreated: (ev.TimerFired,),
    ev.SubOrchestrationInstanceCreated: (ev.SubOrchestrationInstanceCompleted, ev.SubOrchestrationInstanceFailed),
    ev.EntityOperationCalled: (ev.EntityOperationCompleted, ev.EntityOperationFailed),
    ev.EntityLockRequested: (ev.EntityLockGranted,),
    ev.EntityOperationSignaled: (),
    ev.EventSent: (),
}
ANSWERS = tuple(kind for kinds in ANSWERED_BY.values() for kind in kinds)


@contextmanager
def nothing_is_left() -> Iterator[list[str]]:
    """No coroutine or task is left to the garbage collector to complain about; yields what user code logged."""
    records: list[str] = []
    problems: list[Any] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("durable", "asyncio")]
    hook, sys.unraisablehook = sys.unraisablehook, problems.append
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    loggers[0].setLevel(logging.INFO)
    try:
        yield records
        LOGS.clear()
        gc.collect()
        assert problems == []
    finally:
        sys.unraisablehook = hook
        loggers[0].setLevel(logging.NOTSET)
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """What lives already is left out of the many collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=st.randoms(use_true_random=False))
def test_it_does_what_plain_asyncio_does_and_does_it_again(chance: Random) -> None:
    with nothing_is_left() as records, random_run(chance.randrange) as run:
        note(f"program: {run.node}")
        for turn in run.turns:
            note(f"turn: {turn.arrived}")
        assert len(records) == len(run.model_log.entries)
        check_history(run)
        check_codec(run.driver.history)
        for length in range(1, len(run.turns) + 1):
            check_restart(run, length, records)
        if run.turns:
            check_end_after_restart(run, 1 + chance.randrange(len(run.turns)))
        discard(run.driver.orchestration, records)
        del run


# --- a history by itself -----------------------------------------------------------------------------


def check_history(run: Run) -> None:
    """Ids count up without gaps; each task is answered and given up at most once; nothing is decided after the end."""
    turns = list(split_turns(run.driver.history))
    assert [turn.arrived for turn in turns] == [turn.arrived[: turn.taken] for turn in run.turns]
    book = Book()
    for number, turn in enumerate(turns):
        for event in turn.arrived:
            book.arrived(event, number)
        for decision in turn.decisions:
            assert decision.timestamp == turn.timestamp
            book.decided(decision, number)
    ends = [isinstance(decision, ENDS) for turn in turns for decision in turn.decisions]
    assert not any(ends[:-1])
    assert any(ends) is run.model.ended


class Book:
    """What has become of each task, by its id."""

    def __init__(self) -> None:
        self.asked: dict[int, type[Any]] = {}
        self.answered: dict[int, int | None] = {}  # in which turn the code could know; None: not yet, it is suspended
        self.given_up: set[int] = set()
        self.unlocked: set[tuple[int, str]] = set()
        self.is_suspended = False

    def arrived(self, event: Any, number: int) -> None:
        if isinstance(event, ANSWERS):
            assert isinstance(event, ANSWERED_BY[self.asked[event.task_id]])
            assert event.task_id not in self.answered
            assert event.task_id not in self.given_up
            self.answered[event.task_id] = None if self.is_suspended else number
        elif isinstance(event, ev.ExecutionSuspended):
            self.is_suspended = True
        elif isinstance(event, ev.ExecutionResumed):
            self.is_suspended = False
            self.answered = {task_id: number if at is None else at for task_id, at in self.answered.items()}

    def decided(self, decision: Any, number: int) -> None:
        if type(decision) in ANSWERED_BY:
            assert decision.task_id == len(self.asked) + 1
            self.asked[decision.task_id] = type(decision)
        elif isinstance(decision, ev.TaskCancelRequested):
            assert decision.task_id in self.asked
            assert decision.task_id not in self.given_up
            # If there is an answer, it came too late: in this turn, or the turn ended suspended before it was seen.
            assert self.answered.get(decision.task_id) in (None, number)
            self.given_up.add(decision.task_id)
        elif isinstance(decision, ev.EntityUnlockSent):
            assert self.asked[decision.task_id] is ev.EntityLockRequested
            assert (decision.task_id, decision.entity_id) not in self.unlocked
            self.unlocked.add((decision.task_id, decision.entity_id))


def check_codec(history: list[ev.HistoryEvent]) -> None:
    """Each row is the same again after it was stored."""
    for event in history:
        stored = event_to_dict(event)
        assert event_from_dict(stored) == event
        assert event_from_dict(orjson.loads(orjson.dumps(stored))) == event


# --- from history ------------------------------------------------------------------------------------


def check_restart(run: Run, length: int, records: list[str]) -> None:
    """After that many turns a cold replay stands where the live one stood, is silent, and goes on in the same way."""
    before = len(records)
    orchestration = replayed(REGISTRY, rows(run, length))
    log, stood = LOGS[-1], run.turns[length - 1]
    assert log.entries == run.log.entries[: stood.entries]
    assert log.orders == run.log.orders[: stood.orders]
    assert len(records) == before
    if length < len(run.turns):
        following = run.turns[length]
        *_, events = orchestration.turn(following.arrived, following.timestamp)
        assert events == following.events
        assert log.entries == run.log.entries[: following.entries]
        assert len(records) - before == following.entries - stood.entries
    discard(orchestration, records)


def check_end_after_restart(run: Run, length: int) -> None:
    """Killed there, it ends with the same history."""
    history = list(rows(run, length))
    orchestration = replayed(REGISTRY, history)
    log = LOGS[-1]
    for turn in run.turns[length:]:
        *_, events = orchestration.turn(turn.arrived, turn.timestamp)
        assert events is not None
        history += events
    assert history == run.driver.history
    assert log.entries == run.log.entries[: run.turns[-1].entries]
    assert log.orders == run.log.orders[: run.turns[-1].orders]
    orchestration.discard()


def rows(run: Run, length: int) -> list[ev.HistoryEvent]:
    return [event for turn in run.turns[:length] for event in turn.events]


def discard(orchestration: Orchestration, records: list[str]) -> None:
    """Throw it out of memory: no task is left, and nothing is logged, reported or decided."""
    assert isinstance(orchestration.services, Services)
    loop, reports = orchestration.loop, orchestration.services.reports
    before = len(records), len(reports), list(orchestration._decisions)
    orchestration.discard()
    assert (len(records), len(reports), orchestration._decisions) == before
    assert loop.live_tasks() == []
    assert asyncio.all_tasks(loop) == set()


# --- the same everywhere -----------------------------------------------------------------------------


def test_histories_do_not_depend_on_the_hash_seed() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-m", "tests.core.random_runs"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for seed in ("0", "1", "2")
    ]
    assert printed == [digests()] * 3
    assert len(set(printed[0])) == len(CORPUS)
