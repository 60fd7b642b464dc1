"""Random histories of random programs: the engine driven by hand, with the model beside it.

Rule of this file: what arrives, and when, is chosen here; nothing is checked but that engine and model agree turn
by turn. ``python -m tests.core.random_runs`` prints what a fixed set of runs recorded.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from durable import OrchestrationContext, Registry, StuckOrchestrationError
from durable.core import events as ev
from durable.core.codec import event_to_dict
from durable.core.errors import FailureDetails
from durable.core.state import InstanceState, RuntimeStatus

from .asyncio_model import Command, StuckModelError
from .driving import START, Driver
from .plain_context import PlainContext
from .random_programs import NAMES, Choose, Interpreter, Log, Node, random_program

CORPUS = range(30)
MAX_TURNS = 40
CALM_TURNS = 12
"""From then on only answers come, so that most programs end."""
REGISTRY = Registry()
LOGS: list[Log] = []
"""The logs of the executions that began in this process, the newest last."""


@REGISTRY.activity
async def step(label: int) -> int:
    raise AssertionError("never run here")


@REGISTRY.orchestrator
async def child(ctx: OrchestrationContext, label: int) -> int:
    raise AssertionError("never run here")


@REGISTRY.orchestrator
async def program(ctx: OrchestrationContext, node: Any) -> Any:
    LOGS.append(Log())
    return await Interpreter(ctx, step, child, LOGS[-1]).run(node)


@dataclass
class Turn:
    """What arrived, of which so much was taken in, and when; what was recorded, and how long the logs were then."""

    arrived: tuple[ev.ArrivedEvent, ...]
    taken: int
    timestamp: int
    events: tuple[ev.HistoryEvent, ...]
    entries: int
    orders: int


class Run:
    """One program in the engine and in the model."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.driver = Driver(REGISTRY, "program", node)
        self.model_log = Log()
        self.model = PlainContext(self._in_model, START, "instance/execution")
        self.log = Log()
        self.turns: list[Turn] = []
        self.is_stuck = False

    async def _in_model(self, context: PlainContext) -> Any:
        node = json.loads(self.driver.started.input)[0]
        return await Interpreter(context, context.step, context.child, self.model_log).run(node)

    @property
    def is_over(self) -> bool:
        return self.is_stuck or self.model.ended

    def turn(self, *arrived: ev.ArrivedEvent) -> None:
        """Let both take a turn at the driver's time, and compare what they did."""
        assert all(map(self.driver.state.accepts, arrived))
        try:
            commands: list[Command] = self.model.turn(arrived, self.driver.now)
        except StuckModelError:
            self.is_stuck = True
        try:
            events = self.driver.turn(*arrived, after=0)
        except StuckOrchestrationError:
            assert self.is_stuck
            assert LOGS[-1].entries[: len(self.model_log.entries)] == self.model_log.entries  # the rest is of the end
            return
        self.log = LOGS[-1]
        assert not self.is_stuck
        taken = self.model.taken
        decided = [command_of(event) for event in events[taken + 1 : -1]]
        assert decided == commands
        assert events[:taken] == arrived[:taken]
        assert self.log.entries == self.model_log.entries
        lengths = len(self.log.entries), len(self.log.orders)
        self.turns.append(Turn(arrived, taken, self.driver.now, events, *lengths))
        self._check_waiting()

    def _check_waiting(self) -> None:
        """The state, which knows the rows only, the code in the engine, and that in the model wait for the same."""
        state, model, orchestration = self.driver.state, self.model, self.driver.orchestration
        outstanding = {
            "activity": {*state.activities, *state.deferred},
            "child": {*state.children},
            "entity": {*state.calls},
            "lock": {*state.lock_requests},
        }
        answers = (event for event in model.held or () if not isinstance(event, ev.TaskDeferred))
        held = {getattr(event, "task_id", 0) for event in answers}  # known, but not to the code
        questions = {} if model.ended else model.questions
        for kind, task_ids in outstanding.items():
            assert task_ids == {task_id for task_id, one in questions.items() if one.kind == kind} - held
        assert set(orchestration._calls) == set(questions)
        timers = {} if model.ended else model.timers
        assert state.timers == {task_id: model.fire_at(one) for task_id, one in timers.items() if task_id not in held}
        if not model.ended:
            assert set(orchestration._timers) == set(timers)
        section = model.section
        assert {*state.sections} - held == ({section.task_id} if section is not None and section.granted else set())
        assert state.due_at == self._due_at()

    def _due_at(self) -> int | None:
        """When the engine is to run something: an activity at once, a timer at its time unless suspended."""
        model = self.model
        if model.ended:
            return 0 if model.commands[-1][0] == "continue_as_new" else None
        if self.driver.state.activities:
            return 0
        return None if model.held is not None else min(map(model.fire_at, model.timers.values()), default=None)

    def close(self) -> None:
        """Throw away what still runs."""
        self.driver.orchestration.discard()
        self.model.close()


@contextmanager
def random_run(choose: Choose) -> Iterator[Run]:
    """A random program with random arrivals, up to its end or to ``MAX_TURNS``; nothing of it runs on afterwards."""
    run = Run(random_program(choose))
    try:
        run.turn(run.driver.started)
        arrivals = _Arrivals(choose, run.driver)
        while not run.is_over and len(run.turns) < MAX_TURNS:
            run.turn(*arrivals.next(calm=len(run.turns) > CALM_TURNS))
        yield run
    finally:
        run.close()


class _Arrivals:
    """Chooses what comes next."""

    def __init__(self, choose: Choose, driver: Driver) -> None:
        self._choose = choose
        self._driver = driver
        self._messages = 0

    def next(self, *, calm: bool) -> list[ev.ArrivedEvent]:
        """One to three events; the time moves on before, perhaps to the next timer."""
        driver, state = self._driver, self._driver.state
        suspended = state.status is RuntimeStatus.SUSPENDED
        timers = [] if suspended else sorted(state.timers.values())
        answers = self._answers(state)
        wanted = driver.now + (0, 250_000, 1_000_000, 0)[pace := self._choose(4)]
        if timers and (pace == 3 or not answers):
            wanted = max(driver.now, timers[0])
        driver.now = wanted
        pool = [*answers, *state.due_timers(driver.now)]
        if not pool or (self._choose(4) == 3 and not calm):
            pool.append(self._resumed() if suspended else self._raised())
        if suspended and calm:
            pool = [self._resumed()]
        elif not calm and self._choose(12) == 11:
            pool.append(self._request())
        count = min(len(pool), 1 + self._choose(3))
        return [pool.pop(self._choose(len(pool))) for _ in range(count)]

    def _answers(self, state: InstanceState) -> list[ev.ArrivedEvent]:
        """An answer to each question."""
        now = self._driver.now
        asked = sorted([*state.activities, *state.deferred, *state.children, *state.calls])
        requests = state.lock_requests.items()
        granted = [ev.EntityLockGranted(now, task_id, request.lock_set) for task_id, request in requests]
        return [*(self._answer(state, task_id) for task_id in asked), *granted]

    def _answer(self, state: InstanceState, task_id: int) -> ev.ArrivedEvent:
        now, outcome = self._driver.now, self._choose(10)
        if task_id in state.activities and outcome == 9:
            return ev.TaskDeferred(now, task_id)
        failure = FailureDetails("builtins.KeyError", f"answer {task_id}")
        result = '"text"' if outcome == 8 else str(task_id * 10)
        fails = outcome in (6, 7)
        if task_id in state.children:
            if fails:
                return ev.SubOrchestrationInstanceFailed(now, task_id, failure)
            return ev.SubOrchestrationInstanceCompleted(now, task_id, result)
        if task_id in state.calls:
            if fails:
                return ev.EntityOperationFailed(now, task_id, failure)
            return ev.EntityOperationCompleted(now, task_id, result)
        return ev.TaskFailed(now, task_id, failure) if fails else ev.TaskCompleted(now, task_id, result)

    def _raised(self) -> ev.ArrivedEvent:
        name = NAMES[self._choose(len(NAMES))]
        payload = ("1", '"text"')[self._choose(5) // 4]
        return ev.EventRaised(self._driver.now, (name, name.upper())[self._choose(2)], payload, self._message())

    def _request(self) -> ev.ArrivedEvent:
        kinds = (ev.ExecutionSuspended, ev.ExecutionCancelRequested, ev.ExecutionResumed)
        return kinds[self._choose(3)](self._driver.now, "because", message_id=self._message())

    def _resumed(self) -> ev.ArrivedEvent:
        return ev.ExecutionResumed(self._driver.now, message_id=self._message())

    def _message(self) -> str:
        self._messages += 1
        return f"message {self._messages}"


def command_of(decision: Any) -> Command:
    """A decision of the engine as the model says it."""
    match decision:
        case ev.TaskScheduled(previous=previous):
            before = (previous.attempts, previous.first_task_id) if previous else (0, 0)
            return ("call", decision.task_id, decision.name, _label(decision), *before)
        case ev.SubOrchestrationInstanceCreated(detached=True):
            return "start", decision.task_id, decision.name, _label(decision)
        case ev.SubOrchestrationInstanceCreated():
            return "child", decision.task_id, decision.name, _label(decision), decision.parent_close
        case ev.EntityOperationCalled() | ev.EntityOperationSignaled():
            kind = "entity" if isinstance(decision, ev.EntityOperationCalled) else "signal"
            return kind, decision.task_id, decision.entity_id, decision.operation, _label(decision)
        case ev.EntityLockRequested():
            return "lock", decision.task_id, decision.lock_set
        case ev.EntityUnlockSent():
            return "unlock", decision.task_id, decision.entity_id
        case ev.EventSent():
            return "send", decision.task_id, decision.instance_id, decision.name, json.loads(decision.input)
        case ev.TimerCreated():
            return "timer", decision.task_id, decision.fire_at
        case ev.TaskCancelRequested():
            return "cancel", decision.task_id, decision.terminate
        case ev.CustomStatusSet():
            return "status", json.loads(decision.status)
        case ev.VersionMarker():
            return "patched", decision.patch_id
        case ev.ContinueAsNew():
            return "continue_as_new", json.loads(decision.input), list(decision.events)
        case ev.ExecutionCompleted(failure=None):
            return "end", decision.status, json.loads(decision.result or "null")
        case _:
            return "end", decision.status, decision.failure.error_type.rpartition(".")[2]


def _label(decision: Any) -> int:
    (label,) = json.loads(decision.input)
    assert isinstance(label, int)
    return label


def digests() -> list[str]:
    """What the runs of the corpus recorded, one digest for each."""
    found = []
    for seed in CORPUS:
        with random_run(Random(seed).randrange) as run:
            history = [event_to_dict(event) for event in run.driver.history]
            digest = hashlib.sha256(orjson.dumps([history, run.log.entries, run.log.orders])).hexdigest()
            found.append(f"{len(history)} rows {digest}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(digests()))
