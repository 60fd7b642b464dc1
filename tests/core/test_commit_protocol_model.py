"""The commit protocol ends well from every state it can reach, and each of its rules is needed.

The checker explores all interleavings of the model, looks at every state for broken promises, and
then asks of every state: if all workers but one die here for good, can that one, with what it
has in memory and without another crash, bring everything to its end? The mutations show that
the checker would notice: each takes one rule away and names the harm it must find.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

import pytest

from .commit_protocol_model import (
    ABSENT,
    CONSUME,
    INSERT,
    PROJECT,
    SEND,
    START,
    Label,
    Model,
    Protocol,
    Scenario,
    State,
    Step,
)

# --- the scenarios ---------------------------------------------------------------------

ACTIVITY_AND_EVENT = Scenario(
    scripts={
        "root": (
            Step(START),
            Step("work"),
            Step("event", continues_as_new=True),
            Step(START),
            Step("more work"),
        )
    },
    receivers={"event": "root"},
    activities=frozenset({"work", "more work"}),
)
CHILD = Scenario(
    scripts={"root": (Step(START, sends=("child",)), Step("answer")), "child": (Step(START, sends=("answer",)),)},
    receivers={"answer": "root"},
)
ONE_WAY = Scenario(
    scripts={"root": (Step(START, sends=("note",)), Step("event")), "other": (Step(START), Step("note"))},
    receivers={"note": "other", "event": "root"},
    existing=frozenset({"other"}),
)
STARTED_HERE = Scenario(
    scripts={"root": (Step(START, sends=("note",)),), "other": (Step(START), Step("note"))},
    receivers={"note": "other"},
    existing=frozenset({"other"}),
    starts_here=True,
)
ACTIVITY_CHILD_EVENT = Scenario(
    scripts={
        "root": (Step(START), Step("work", sends=("child",)), Step("answer"), Step("event")),
        "child": (Step(START, sends=("answer",)),),
    },
    receivers={"answer": "root", "event": "root"},
    activities=frozenset({"work"}),
    one_at_a_time=True,
)
WHOLE = Scenario(
    scripts={
        "root": (Step(START), Step("work", sends=("child",)), Step("answer", sends=("note",)), Step("event")),
        "child": (Step(START, sends=("answer",)), Step("note")),
    },
    receivers={"answer": "root", "note": "child", "event": "root"},
    activities=frozenset({"work"}),
    one_at_a_time=True,
)

# --- the checker -----------------------------------------------------------------------


class Kind(Enum):
    """How a protocol can break its promises."""

    REWRITTEN = "a committed checkpoint was replaced"
    TWICE = "a message is in history twice"
    CAUSELESS = "an effect is in the store, the turn that decided it is not committed"
    AHEAD = "a record shows checkpoints that are not committed"
    LOST_START = "a start was acknowledged, its instance is not in the store"
    STUCK = "a worker that goes on alone can never bring this to its end"


@dataclass(frozen=True)
class Violation:
    """What went wrong, in which state, and a shortest way there."""

    kind: Kind
    state: State
    trace: tuple[Label, ...]

    def __str__(self) -> str:
        steps = "\n".join(
            f"  {'client' if worker < 0 else f'worker {worker}'}: {step} {subject}"
            for worker, step, subject in self.trace
        )
        return f"{self.kind.value}\n{steps}\n  => {self.state}"


@dataclass(frozen=True)
class Report:
    """What an exploration saw: how many states, which steps, and the first violation."""

    states: int
    steps: frozenset[str]
    violation: Violation | None


class Checker:
    """Explores one model, breadth first. The two workers are alike, so a state and its mirror image are one."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.origin: dict[State, tuple[State, Label] | None] = {}
        self.steps: set[str] = set()
        self.decided = cache(self._decided)

    def run(self) -> Report:
        """Look for broken promises in every reachable state, then for states without a good end."""
        violation = self._explore() or self._find_stuck()
        return Report(len(self.origin), frozenset(self.steps), violation)

    def _explore(self) -> Violation | None:
        initial = self.model.initial()
        self.origin[initial] = None
        queue = deque([initial])
        while queue:
            state = queue.popleft()
            for label, after in self.model.moves(state, crashes=True):
                self.steps.add(label.step)
                found = _canonical(after)
                if found in self.origin:
                    continue
                self.origin[found] = (state, label)
                kind = Kind.REWRITTEN if _is_rewritten(state, after) else self._broken_promise(after)
                if kind:
                    return Violation(kind, found, self._trace(found))
                queue.append(found)
        return None

    def _broken_promise(self, state: State) -> Kind | None:
        model = self.model
        if state.acked and state.records[0] < 0:
            return Kind.LOST_START
        if any(rev > len(history) for rev, history in zip(state.records, state.histories, strict=True)):
            return Kind.AHEAD
        if any(history.count(m) > 1 for m in model.messages for history in state.histories):
            return Kind.TWICE
        decided = {item for i, history in enumerate(state.histories) for item in self.decided(i, history)}
        sent = {m for m, mark in zip(model.messages, state.inbox, strict=True) if mark != ABSENT}
        created = {name for name, rev in zip(model.names, state.records, strict=True) if rev >= 0}
        by_orchestrators = frozenset().union(*model.sends)
        return Kind.CAUSELESS if not (sent | created) & by_orchestrators <= decided else None

    def _decided(self, i: int, history: tuple[str, ...]) -> frozenset[str]:
        turns = (self.model.progress(i, history[:n]).sent for n in range(1, len(history) + 1))
        return frozenset(item for sent in turns for item in sent)

    def _find_stuck(self) -> Violation | None:
        """Search backward from the good ends, with the steps of one worker alone and no more crashes."""
        alone: dict[State, State] = {}
        for state in self.origin:
            for copies in state.workers:
                alone.setdefault(state._replace(workers=(copies,)), state)
        causes: dict[State, list[State]] = {state: [] for state in alone}
        queue = deque(alone)
        while queue:
            state = queue.popleft()
            for _, after in self.model.moves(state, crashes=False):
                if after not in causes:
                    causes[after] = []
                    queue.append(after)
                causes[after].append(state)
        ends_well = _closure((state for state in causes if self._is_good_end(state)), causes)
        stuck = next((state for state in alone if state not in ends_well), None)
        return Violation(Kind.STUCK, stuck, self._trace(alone[stuck])) if stuck else None

    def _is_good_end(self, state: State) -> bool:
        """All ended and projected, every message in its receiver's history once, nothing left to find."""
        model = self.model
        instances = range(len(model.names))
        return (
            all(model.awaited(i, state.histories[i]) is None for i in instances)
            and all(state.records[i] == len(state.histories[i]) for i in instances)
            and all(state.histories[i].count(m) == 1 for i in instances for m in model.inbox_of[i])
            and not any(model.is_runnable(state, i) for i in instances)
        )

    def _trace(self, state: State) -> tuple[Label, ...]:
        """The steps to ``state``, with the two workers' names as they were before states were mirrored."""
        path: list[tuple[State, Label]] = []
        while came := self.origin[state]:
            path.append(came)
            state = came[0]
        labels: list[Label] = []
        mirrored = False
        for before, label in reversed(path):
            after = next(after for found, after in self.model.moves(before, crashes=True) if found == label)
            labels.append(label if label.worker < 0 else label._replace(worker=label.worker ^ mirrored))
            mirrored ^= _canonical(after) != after
        return tuple(labels)


def _canonical(state: State) -> State:
    return state if state.workers[0] <= state.workers[1] else state._replace(workers=state.workers[::-1])


def _is_rewritten(before: State, after: State) -> bool:
    pairs = zip(before.histories, after.histories, strict=True)
    return any(new[: len(old)] != old for old, new in pairs)


def _closure(states: Iterable[State], neighbours: dict[State, list[State]]) -> set[State]:
    found = set(states)
    queue = deque(found)
    while queue:
        for state in neighbours[queue.popleft()]:
            if state not in found:
                found.add(state)
                queue.append(state)
    return found


# --- the tests -------------------------------------------------------------------------

SCENARIOS = {
    "activity_and_event": ACTIVITY_AND_EVENT,
    "child": CHILD,
    "one_way": ONE_WAY,
    "started_here": STARTED_HERE,
    "activity_child_event": ACTIVITY_CHILD_EVENT,
    "whole": WHOLE,
}
OURS = Protocol()


@cache
def _ours(scenario: str) -> Report:
    return Checker(Model(SCENARIOS[scenario], OURS)).run()


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.slow] if name == "whole" else []) for name in SCENARIOS]
)
def test_every_reachable_state_keeps_the_promises_and_ends_well(scenario: str) -> None:
    violation = _ours(scenario).violation
    assert violation is None, str(violation)


def test_the_scenarios_take_every_step_of_the_model() -> None:
    taken = frozenset().union(*(_ours(name).steps for name in SCENARIOS if name != "whole"))
    steps = {
        *("start", "start here", "load", "take", "crash"),
        *("create", "exists", "insert", "committed", "conflict"),
        *("send", "project", "consume", "mark duplicate"),
    }
    # R3 for children is a second net: while send comes before project, a crash never leaves a child to be created again
    assert taken == steps


@dataclass(frozen=True)
class Mutation:
    """A rule taken away, where the harm shows, and which."""

    protocol: Protocol
    scenario: Scenario
    kind: Kind


MUTATIONS = {
    # the crash after the projection leaves nothing that points at the message still to be sent
    "project before send": Mutation(replace(OURS, order=(INSERT, PROJECT, SEND, CONSUME)), ONE_WAY, Kind.STUCK),
    # ... nor at the child's answer; R3 does create the child again, but a finished child does not answer twice
    "project before answer": Mutation(replace(OURS, order=(INSERT, PROJECT, SEND, CONSUME)), CHILD, Kind.STUCK),
    # the record still waits for the event that is no longer there to be found
    "consume before project": Mutation(
        replace(OURS, order=(INSERT, SEND, CONSUME, PROJECT)), ACTIVITY_AND_EVENT, Kind.STUCK
    ),
    "consume before commit": Mutation(
        replace(OURS, order=(CONSUME, INSERT, SEND, PROJECT)), ACTIVITY_AND_EVENT, Kind.STUCK
    ),
    # the turn may yet lose to one that took in something else and decided otherwise
    "effect before commit": Mutation(replace(OURS, order=(SEND, INSERT, PROJECT, CONSUME)), ONE_WAY, Kind.CAUSELESS),
    "project before commit": Mutation(replace(OURS, order=(PROJECT, INSERT, SEND, CONSUME)), ONE_WAY, Kind.AHEAD),
    # a slow worker puts the record back to a wait whose message is consumed
    "no rev guard": Mutation(replace(OURS, rev_guard=False), ACTIVITY_AND_EVENT, Kind.STUCK),
    # within one execution the history itself knows the message; the next execution does not
    "no tombstones": Mutation(replace(OURS, tombstones=False), ACTIVITY_AND_EVENT, Kind.TWICE),
    "last writer wins": Mutation(replace(OURS, unique_insert=False), ACTIVITY_AND_EVENT, Kind.REWRITTEN),
    # the record that is inserted with the first checkpoint must be Pending with rev 0, not the one as of the checkpoint
    "created as projected": Mutation(replace(OURS, creates_pending=False), STARTED_HERE, Kind.AHEAD),
    # a message still to be marked is taken in by the successor too
    "next execution at once": Mutation(
        replace(OURS, marks_before_next_execution=False), ACTIVITY_AND_EVENT, Kind.TWICE
    ),
    # the other worker went on and died; this one waits for what has come already
    "stale copy kept": Mutation(replace(OURS, reloads_stale_copies=False), ACTIVITY_AND_EVENT, Kind.STUCK),
    "load takes all as settled": Mutation(replace(OURS, repeats_settle_on_load=False), CHILD, Kind.STUCK),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_protocol_without_one_of_its_rules_is_found_out(name: str) -> None:
    mutation = MUTATIONS[name]
    violation = Checker(Model(mutation.scenario, mutation.protocol)).run().violation
    assert violation is not None
    assert violation.kind is mutation.kind, str(violation)


def test_a_violation_comes_with_a_shortest_way_to_it() -> None:
    mutation = MUTATIONS["project before send"]
    violation = Checker(Model(mutation.scenario, mutation.protocol)).run().violation
    assert violation is not None
    assert [step for _, step, _ in violation.trace] == ["start", "load", "take", "insert", "committed", "project"]
    assert str(violation).splitlines()[1:3] == ["  client: start root", "  worker 0: load root"]


def test_within_one_execution_history_alone_keeps_a_message_from_being_taken_twice() -> None:
    """Why "no tombstones" needs a second execution to bite: R2 has two guards, and here the other one holds."""
    script = (Step(START), Step("work"), Step("event"), Step("more work"))
    one_execution = replace(ACTIVITY_AND_EVENT, scripts={"root": script})
    assert Checker(Model(one_execution, replace(OURS, tombstones=False))).run().violation is None
