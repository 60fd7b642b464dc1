"""An independent judge of stored instances: what a history must look like, whoever wrote it and whoever died.

Rule of this file: no engine code. It reads plain dicts as they are stored and states the promises once
more, from docs/design.md. A finding is a sentence; no finding means that every promise was kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
Effect = tuple[str, str, int, int]
"""A side effect that an activity logged: instance id, execution id, task id, attempt."""

TERMINAL = ("Completed", "Failed")


@dataclass(frozen=True)
class StoredCheckpoint:
    execution_id: str
    seq: int
    rev: int
    recoveries: int
    events: Sequence[Event]


@dataclass(frozen=True)
class StoredInstance:
    """A record and all the checkpoints that the store holds under its id, in whatever order."""

    instance_id: str
    execution_id: str
    status: str
    rev: int
    due_at: int | None
    output: str | None
    failure: str | None
    problem: str | None
    checkpoints: Sequence[StoredCheckpoint]


def findings(instances: Iterable[StoredInstance]) -> list[str]:
    """All that is wrong with the histories of ended instances and with their records."""
    found: list[str] = []
    for instance in instances:
        found += [f"{instance.instance_id}: {finding}" for finding in _HistoryCheck(instance).run()]
    return found


def missing_instances(acknowledged: Collection[str], instances: Iterable[StoredInstance]) -> list[str]:
    """Starts that were confirmed and are not in the store."""
    present = {instance.instance_id for instance in instances}
    return [
        f"{name}: its start was acknowledged, but it is not in the store"
        for name in sorted(set(acknowledged) - present)
    ]


def unexplained_results(
    instances: Iterable[StoredInstance], effects: Collection[Effect], *, without_effect: Collection[str] = ()
) -> list[str]:
    """Outcomes in history that no execution of the activity explains (at least once means: at least once)."""
    logged = set(effects)
    found = []
    for instance in instances:
        calls = {event["task_id"]: event for event in _events(instance) if event["type"] == "TaskScheduled"}
        for event in _events(instance):
            call = calls.get(event["task_id"]) if event["type"] in ("TaskCompleted", "TaskFailed") else None
            if call is not None and call["name"] not in without_effect:
                # Activities count on from the calls of the same retry policy before; outcomes do not.
                attempt = event["attempt"] + (call.get("previous") or {"attempts": 0})["attempts"]
                effect = (instance.instance_id, instance.execution_id, event["task_id"], attempt)
                if effect not in logged:
                    found.append(f"{instance.instance_id}: {event['type']} {effect[2:]} was recorded, but never ran")
    return found


def executions(effects: Iterable[Effect]) -> Counter[tuple[str, str, int]]:
    """How often each activity task was executed."""
    return Counter(effect[:3] for effect in effects)


def _events(instance: StoredInstance) -> Iterable[Event]:
    for checkpoint in sorted(instance.checkpoints, key=lambda checkpoint: checkpoint.seq):
        yield from checkpoint.events


@dataclass
class _HistoryCheck:
    """One walk through one history."""

    instance: StoredInstance
    found: list[str] = field(default_factory=list)
    scheduled: set[int] = field(default_factory=set)
    timers: dict[int, int] = field(default_factory=dict)
    outstanding: set[int] = field(default_factory=set)
    last_task_id: int = 0
    turn_time: int = 0
    in_turn: bool = False
    arrived: list[Event] = field(default_factory=list)
    started: int = 0
    ended: Event | None = None

    def run(self) -> list[str]:
        checkpoints = sorted(self.instance.checkpoints, key=lambda checkpoint: (checkpoint.seq, checkpoint.rev))
        self._check_numbers(checkpoints)
        for checkpoint in checkpoints:
            for event in checkpoint.events:
                self._check_event(checkpoint, event)
            self._expect(not self.in_turn and not self.arrived, f"checkpoint {checkpoint.seq} ends inside a turn")
        self._expect(self.started == 1, f"ExecutionStarted is there {self.started} times")
        self._check_record(checkpoints)
        return self.found

    def _expect(self, right: bool, finding: str) -> None:
        if not right:
            self.found.append(finding)

    def _check_numbers(self, checkpoints: Sequence[StoredCheckpoint]) -> None:
        executions = {checkpoint.execution_id for checkpoint in checkpoints}
        self._expect(executions == {self.instance.execution_id}, f"checkpoints of executions {sorted(executions)}")
        seqs = [checkpoint.seq for checkpoint in checkpoints]
        self._expect(seqs == list(range(len(seqs))), f"checkpoint numbers {seqs} have a gap or come twice")
        revs = [checkpoint.rev for checkpoint in checkpoints]
        self._expect(revs == list(range(1, len(revs) + 1)), f"revisions {revs} have a gap or come twice")

    def _check_event(self, checkpoint: StoredCheckpoint, event: Event) -> None:
        kind = event["type"]
        self._expect(self.ended is None or kind == "OrchestratorCompleted", f"{kind} after the end")
        match kind:
            case "OrchestratorStarted":
                self._check_turn_opens(event)
            case "OrchestratorCompleted":
                self._expect(self.in_turn, "OrchestratorCompleted outside a turn")
                self.in_turn = False
                self.arrived = []
            case "ExecutionStarted" | "TaskCompleted" | "TaskFailed" | "TimerFired":
                self._expect(not self.in_turn, f"{kind} arrived in the middle of a turn")
                self.arrived.append(event)
                self._check_arrival(checkpoint, event)
            case _:
                self._expect(self.in_turn, f"{kind} was decided outside a turn")
                self._check_decision(event)

    def _check_turn_opens(self, event: Event) -> None:
        self._expect(not self.in_turn, "a turn opens inside another")
        self._expect(bool(self.arrived), "a turn opens although nothing arrived")
        self._expect(event["timestamp"] >= self.turn_time, "time goes back between turns")
        late = [fired["fire_at"] for fired in self.arrived if fired["type"] == "TimerFired"]
        self._expect(event["timestamp"] >= max(late, default=0), "a turn takes in a timer before its time")
        self.turn_time = event["timestamp"]
        self.in_turn = True

    def _check_arrival(self, checkpoint: StoredCheckpoint, event: Event) -> None:
        kind = event["type"]
        if kind == "ExecutionStarted":
            self.started += 1
            self._expect(checkpoint.seq == 0 and checkpoint.events[0] is event, "ExecutionStarted is not the first row")
            return
        task_id = event["task_id"]
        self._expect(task_id in self.outstanding, f"{kind} of task {task_id}, which is not outstanding (twice?)")
        self.outstanding.discard(task_id)
        if kind == "TimerFired":
            self._expect(self.timers.get(task_id) == event["fire_at"], f"timer {task_id} fired at another time")
        elif task_id in self.scheduled:
            # How high it may be is not for history to say: of two owners only one writes it. The log of effects tells.
            self._expect(event["attempt"] >= 1, f"{kind} of task {task_id} says attempt {event['attempt']}")
        else:
            self._expect(False, f"{kind} of task {task_id}, which is no activity")

    def _check_decision(self, event: Event) -> None:
        match event["type"]:
            case "TaskScheduled" | "TimerCreated":
                task_id = event["task_id"]
                self._expect(task_id == self.last_task_id + 1, f"task {task_id} follows task {self.last_task_id}")
                self.last_task_id = task_id
                self.outstanding.add(task_id)
                if event["type"] == "TaskScheduled":
                    self.scheduled.add(task_id)
                else:
                    self.timers[task_id] = event["fire_at"]
            case "TaskCancelRequested":
                # What arrived in the same turn had not been told to the code when it gave up.
                task_id = event["task_id"]
                in_time = task_id in self.outstanding or any(a.get("task_id") == task_id for a in self.arrived)
                self._expect(in_time, f"task {task_id} is given up, but is not outstanding")
                self.outstanding.discard(task_id)
            case "ExecutionCompleted":
                self.ended = event

    def _check_record(self, checkpoints: Sequence[StoredCheckpoint]) -> None:
        instance = self.instance
        self._expect(instance.status in TERMINAL, f"is stuck: {instance.status}, problem {instance.problem!r}")
        self._expect(self.ended is not None, "its history has no end")
        if self.ended is None:
            return
        self._expect(self.ended["status"] == instance.status, f"its record says {instance.status}")
        self._expect(self.ended.get("result") == instance.output, "its record has another output than its history")
        self._expect(instance.rev == len(checkpoints), f"its record is of revision {instance.rev}")
        self._expect(instance.due_at is None, f"it has ended but is due at {instance.due_at}")
        self._expect(instance.problem is None, f"it has ended with a problem: {instance.problem}")
