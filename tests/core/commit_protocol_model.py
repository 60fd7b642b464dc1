"""The commit protocol as an explicit-state model: what two workers may do to one store, step by step.

Rule of this file: it says what can happen, never what should; ``test_commit_protocol_model``
explores all of it and judges. Two workers both believe they hold the lease of every
instance, all the time. Each step below is one operation on the store or one look at it; between
any two steps the other worker may move, or a worker may crash and lose everything it held.

======================  ======================================================================
step                    what it does
======================  ======================================================================
client: start           insert the Pending record of the root instance; acknowledged (R5)
client: send            insert an external event, at any time again; new ids only (R2)
load                    an instance that a trigger shows (R1): read record and history
start here              begin a root instance in this worker; record and first checkpoint in one commit
take                    run a turn in memory: one input in, decisions out. Inputs are the start, the
                        outcome of an activity (local, run again by whoever loads, R3), a message
insert                  THE COMMIT: insert the checkpoint under (execution, seq), unless the key is taken
committed, conflict     the answer; after a doubt from the same insert again: is the stored token its own?
                        On a conflict the worker drops its copy, as it does when a start ``exists``
send                    insert the messages of the checkpoint, create its children; new ids only
project                 set the record to this checkpoint, unless its ``rev`` is there already
consume                 mark the message that the checkpoint took in; the tombstone stays
mark duplicate          an unconsumed message that the history holds already, or that came too late
create child again      R3 for children
crash                   a worker loses all its copies; a new process begins with none
======================  ======================================================================

Encodings that keep the number of states small and lose nothing: a checkpoint is the one input it
took in, as everything else about it follows from the inputs before (determinism); its key is its
place in the tuple, through all executions; a record is its ``rev``, as it is the projection
of that many checkpoints; that the store holds a writer's token is kept as ``landed`` in the
writer's copy. A timer is an activity here: whoever loads the instance can produce its outcome.
A write of a dead worker that arrives late is a write of the other, slow one. Crashes and
repeated sends are not counted, so there may be any number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, TypeAlias, TypeVar

START = "start"
CREATE, INSERT, SEND, PROJECT, CONSUME = "create", "insert", "send", "project", "consume"
ABSENT, UNREAD, CONSUMED = 0, 1, 2

# --- what is to be run -----------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A line of an orchestrator: when ``awaits`` has come, do the rest and go to the next line.

    ``sends`` are ids of messages, or names of instances to create. After the last line the instance is Completed.
    """

    awaits: str
    sends: tuple[str, ...] = ()
    continues_as_new: bool = False


@dataclass(frozen=True)
class Scenario:
    """Orchestrators by instance id, the root first, and the messages by id with their receivers.

    ``activities`` are the awaited names that a worker produces itself. A message that no
    orchestrator sends comes from a client. ``existing`` instances have run their start before.
    With ``one_at_a_time`` a worker ends what it does for one instance before it turns to another: fewer states
    for the long stories, as the two workers interleave the instances anyway.
    """

    scripts: Mapping[str, tuple[Step, ...]]
    receivers: Mapping[str, str] = field(default_factory=dict)
    activities: frozenset[str] = frozenset()
    existing: frozenset[str] = frozenset()
    starts_here: bool = False
    one_at_a_time: bool = False


@dataclass(frozen=True)
class Protocol:
    """The protocol under test; the defaults are ours, a test breaks one of them."""

    order: tuple[str, ...] = (INSERT, SEND, PROJECT, CONSUME)
    unique_insert: bool = True
    rev_guard: bool = True
    tombstones: bool = True
    creates_pending: bool = True
    marks_before_next_execution: bool = True
    reloads_stale_copies: bool = True
    repeats_settle_on_load: bool = True


# --- the state -------------------------------------------------------------------------


class Copy(NamedTuple):
    """What a worker holds of an instance in memory.

    It applied ``known`` checkpoints; ``settled`` of these it has settled, of the next one ``done`` operations.
    ``turn`` is the input of a turn that it does not know to be committed ("" = none), ``before`` the
    operations due before that turn's insert, ``landed`` whether the insert was this copy's.
    """

    known: int
    settled: int
    done: int = 0
    turn: str = ""
    before: tuple[str, ...] = ()
    landed: bool = False


NOT_HELD = Copy(-1, -1)
Copies: TypeAlias = tuple[Copy, ...]


class State(NamedTuple):
    """The store (histories, records, inbox), the client's knowledge, and the memory of each worker."""

    acked: bool
    histories: tuple[tuple[str, ...], ...]
    records: tuple[int, ...]  # rev, -1 = there is none
    inbox: tuple[int, ...]
    workers: tuple[Copies, ...]


class Label(NamedTuple):
    """Which step led to a state; ``worker`` -1 is the client."""

    worker: int
    step: str
    subject: str


class Progress(NamedTuple):
    """What a history adds up to: the line that waits, the inputs of this execution, what the last turn sent."""

    line: int
    taken: frozenset[str]
    sent: tuple[str, ...]


Move: TypeAlias = tuple[Label, State]


class Model:
    """A scenario run under a protocol: the initial state, the steps from any state, and what a history means."""

    def __init__(self, scenario: Scenario, protocol: Protocol) -> None:
        self.scenario, self.protocol = scenario, protocol
        self.names = tuple(scenario.scripts)
        self.scripts = tuple(scenario.scripts.values())
        self.messages = tuple(scenario.receivers)
        self.index = {name: i for i, name in enumerate(self.names)} | {m: k for k, m in enumerate(self.messages)}
        self.inbox_of = tuple(tuple(m for m in self.messages if scenario.receivers[m] == name) for name in self.names)
        self.sends = tuple(frozenset(sent for step in script for sent in step.sends) for script in self.scripts)
        sent_by = {item: sender for sender, items in enumerate(self.sends) for item in items}
        self.from_client = tuple(m for m in self.messages if m not in sent_by)
        self.child_of = {  # answer -> the child that sends it
            m: sender
            for m, sender in sent_by.items()
            if m in self.messages and self.names[sender] in self.sends[self.index[scenario.receivers[m]]]
        }
        at = protocol.order.index(INSERT)
        self.order_before, self.order_after = protocol.order[:at], protocol.order[at + 1 :]
        self.progress = cache(self._progress)
        self.operations = cache(self._operations)

    def initial(self) -> State:
        """Two workers with empty memories, a store with the instances that exist already."""
        existing = [name in self.scenario.existing for name in self.names]
        nothing = (NOT_HELD,) * len(self.names)
        return State(
            acked=False,
            histories=tuple((START,) if exists else () for exists in existing),
            records=tuple(1 if exists else -1 for exists in existing),
            inbox=(ABSENT,) * len(self.messages),
            workers=(nothing, nothing),
        )

    # --- what a history means

    def _progress(self, i: int, history: tuple[str, ...]) -> Progress:
        if not history:
            return Progress(0, frozenset(), ())
        line, taken, _ = self.progress(i, history[:-1])
        if history[-1] == START:
            taken = frozenset()
        taken |= {history[-1]}
        sent: tuple[str, ...] = ()
        while line < len(self.scripts[i]) and self.scripts[i][line].awaits in taken:
            step = self.scripts[i][line]
            sent, line = sent + step.sends, line + 1
            if step.continues_as_new:
                break
        return Progress(line, taken, sent)

    def awaited(self, i: int, history: tuple[str, ...]) -> str | None:
        """What the instance waits for; None when it is terminal."""
        line = self.progress(i, history).line
        return self.scripts[i][line].awaits if line < len(self.scripts[i]) else None

    def is_runnable(self, state: State, i: int) -> bool:
        """R1 as the store sees it: record due (start, activity, child outstanding) or an unconsumed message."""
        rev = state.records[i]
        if rev < 0:
            return False
        if any(state.inbox[self.index[m]] == UNREAD for m in self.inbox_of[i]):
            return True
        awaited = self.awaited(i, state.histories[i][:rev])
        return awaited == START or awaited in self.scenario.activities or awaited in self.child_of

    def _operations(self, i: int, history: tuple[str, ...], order: tuple[str, ...]) -> tuple[str, ...]:
        """Those operations in ``order`` that have something to do for the last checkpoint of ``history``."""
        idle = {SEND} if not self.progress(i, history).sent else set()
        if history[-1] not in self.inbox_of[i]:
            idle.add(CONSUME)
        return tuple(operation for operation in order if operation not in idle)

    # --- steps

    def moves(self, state: State, *, crashes: bool) -> Iterator[Move]:
        """Every step that can come next, and the state after it."""
        yield from self._client_moves(state)
        for w, copies in enumerate(state.workers):
            for i in self._at_hand(copies):
                yield from self._worker_moves(state, w, i)
            if crashes and any(copy != NOT_HELD for copy in copies):
                yield Label(w, "crash", ""), _with_copies(state, w, (NOT_HELD,) * len(copies))

    def _at_hand(self, copies: Copies) -> Iterable[int]:
        """The instances that a worker may turn to: all, or the one it is busy with."""
        everything = range(len(self.names))
        if not self.scenario.one_at_a_time:
            return everything
        return [i for i in everything if copies[i].turn or copies[i].settled < copies[i].known] or everything

    def _client_moves(self, state: State) -> Iterator[Move]:
        if not self.scenario.starts_here and not state.acked:
            yield Label(-1, "start", self.names[0]), self._created(state, 0)._replace(acked=True)
        for message in self.from_client:
            receiver = self.index[self.scenario.receivers[message]]
            if state.inbox[self.index[message]] == ABSENT and state.records[receiver] >= 0:
                yield Label(-1, "send", message), self._sent(state, (message,))

    def _worker_moves(self, state: State, w: int, i: int) -> Iterator[Move]:
        copy, name = state.workers[w][i], self.names[i]
        if copy == NOT_HELD:
            if self.is_runnable(state, i):
                yield Label(w, "load", name), self._loaded(state, w, i)
            if self.scenario.starts_here and i == 0 and state.records[0] < 0:
                fresh = Copy(0, 0, turn=START, before=(CREATE, *self.operations(0, (START,), self.order_before)))
                yield Label(w, "start here", name), _with_copy(state, w, i, fresh)
            return
        if copy.turn:
            yield self._before_insert(state, w, i, copy) if copy.before else self._commit_step(state, w, i, copy)
        else:
            for taken in self._inputs(state, i, copy):
                history = (*state.histories[i][: copy.known], taken)
                turn = copy._replace(turn=taken, before=self.operations(i, history, self.order_before))
                yield Label(w, "take", f"{taken} into {name}"), _with_copy(state, w, i, turn)
        if copy.settled < copy.known:
            yield self._settle_step(state, w, i, copy)
        elif not copy.turn:
            yield from self._upkeep(state, w, i, copy)

    def _loaded(self, state: State, w: int, i: int) -> State:
        known, rev = len(state.histories[i]), state.records[i]
        settled = min(rev, known) if self.protocol.repeats_settle_on_load else known
        return _with_copy(state, w, i, Copy(known, settled))

    def _inputs(self, state: State, i: int, copy: Copy) -> Iterator[str]:
        """What a turn of this copy could take in now."""
        history = state.histories[i][: copy.known]
        awaited, taken = self.awaited(i, history), self.progress(i, history).taken
        unread = [m for m in self.inbox_of[i] if state.inbox[self.index[m]] == UNREAD]
        if awaited is None:
            return
        if awaited == START:
            # the successor's first turn would not know the messages of its predecessor from new ones
            if not (self.protocol.marks_before_next_execution and taken.intersection(unread)):
                yield START
            return
        if awaited in self.scenario.activities:
            yield awaited
        yield from (m for m in unread if m not in taken)

    def _commit_step(self, state: State, w: int, i: int, copy: Copy) -> Move:
        """The insert of the checkpoint, and its repetition, which tells what became of it."""
        history, name = state.histories[i], self.names[i]
        if copy.landed:
            committed = copy._replace(known=copy.known + 1, turn="", landed=False)
            acked = state.acked or (self.scenario.starts_here and i == 0)
            return Label(w, "committed", name), _with_copy(state, w, i, committed)._replace(acked=acked)
        if copy.known < len(history) and self.protocol.unique_insert:
            return Label(w, "conflict", name), _with_copy(state, w, i, NOT_HELD)
        written = (*history[: copy.known], copy.turn, *history[copy.known + 1 :])
        stored = state._replace(histories=_put(state.histories, i, written))
        return Label(w, INSERT, name), _with_copy(stored, w, i, copy._replace(landed=True))

    def _before_insert(self, state: State, w: int, i: int, copy: Copy) -> Move:
        """The creation of an instance with its first checkpoint, or an operation that a broken protocol does early."""
        operation, label = copy.before[0], Label(w, copy.before[0], self.names[i])
        if operation == CREATE and state.records[i] >= 0:
            return label._replace(step="exists"), _with_copy(state, w, i, NOT_HELD)
        if operation == CREATE:
            state = self._created(state, i, rev=0 if self.protocol.creates_pending else 1)
        else:
            history = (*state.histories[i][: copy.known], copy.turn)
            state = self._settle_operation(state, i, history, operation)
        return label, _with_copy(state, w, i, copy._replace(before=copy.before[1:]))

    def _settle_step(self, state: State, w: int, i: int, copy: Copy) -> Move:
        """The next operation that follows from the oldest checkpoint that this copy has not settled."""
        history = state.histories[i][: copy.settled + 1]
        operations = self.operations(i, history, self.order_after)
        label = Label(w, operations[copy.done], self.names[i])
        state = self._settle_operation(state, i, history, operations[copy.done])
        copy = copy._replace(done=copy.done + 1)
        if copy.done == len(operations):
            copy = copy._replace(settled=copy.settled + 1, done=0)
        return label, _with_copy(state, w, i, self._kept(state, i, copy))

    def _settle_operation(self, state: State, i: int, history: tuple[str, ...], operation: str) -> State:
        """One store operation that follows from the last checkpoint of ``history``."""
        if operation == SEND:
            return self._sent(state, self.progress(i, history).sent)
        if operation == PROJECT:
            rev = max(state.records[i], len(history)) if self.protocol.rev_guard else len(history)
            return state._replace(records=_put(state.records, i, rev))
        return self._consumed(state, history[-1])

    def _upkeep(self, state: State, w: int, i: int, copy: Copy) -> Iterator[Move]:
        """What an idle, settled copy does: mark duplicates, create a child again, make room for a newer copy."""
        history = state.histories[i][: copy.known]
        awaited, taken = self.awaited(i, history), self.progress(i, history).taken
        for m in self.inbox_of[i]:
            if state.inbox[self.index[m]] == UNREAD and (m in taken or awaited is None):
                marked = self._consumed(state, m)
                yield Label(w, "mark duplicate", m), _with_copy(marked, w, i, self._kept(marked, i, copy))
        child = self.child_of.get(awaited or "")
        if child is not None and state.records[child] < 0:
            yield Label(w, "create child again", self.names[child]), self._created(state, child)
        if self.protocol.reloads_stale_copies and state.records[i] > copy.known and self.is_runnable(state, i):
            yield Label(w, "load", self.names[i]), self._loaded(state, w, i)

    # --- store operations

    def _created(self, state: State, i: int, rev: int = 0) -> State:
        return state if state.records[i] >= 0 else state._replace(records=_put(state.records, i, rev))

    def _sent(self, state: State, sent: tuple[str, ...]) -> State:
        for item in sent:
            if item in self.names:
                state = self._created(state, self.index[item])
            elif state.inbox[self.index[item]] == ABSENT:
                state = state._replace(inbox=_put(state.inbox, self.index[item], UNREAD))
        return state

    def _consumed(self, state: State, message: str) -> State:
        mark = CONSUMED if self.protocol.tombstones else ABSENT
        return state._replace(inbox=_put(state.inbox, self.index[message], mark))

    def _kept(self, state: State, i: int, copy: Copy) -> Copy:
        """A worker drops its copy of an instance that has ended and is settled."""
        ended = self.awaited(i, state.histories[i][: copy.known]) is None
        return NOT_HELD if ended and copy.settled == copy.known and not copy.turn else copy


# --- small changes to immutable values -------------------------------------------------

T = TypeVar("T")


def _put(values: tuple[T, ...], i: int, value: T) -> tuple[T, ...]:
    return (*values[:i], value, *values[i + 1 :])


def _with_copies(state: State, w: int, copies: Copies) -> State:
    acked, histories, records, inbox, workers = state
    return State(acked, histories, records, inbox, _put(workers, w, copies))


def _with_copy(state: State, w: int, i: int, copy: Copy) -> State:
    return _with_copies(state, w, _put(state.workers[w], i, copy))
