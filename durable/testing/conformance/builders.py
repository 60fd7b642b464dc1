"""What the conformance tests are made of: records, turns, messages, and strings that bite.

Rule of this file: values and the shortest way to bring them into a backend; no test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from durable.backend import (
    Backend,
    Checkpoint,
    Commit,
    CommitOutcome,
    InstanceRecord,
    Message,
    Query,
    Start,
    Wakeup,
    WorkerInfo,
)
from durable.core.errors import FailureDetails
from durable.core.events import (
    ExecutionCompleted,
    HistoryEvent,
    OrchestratorCompleted,
    OrchestratorStarted,
    TaskCompleted,
)
from durable.core.ids import partition_of
from durable.core.state import RuntimeStatus

PARTITIONS = 16
SECOND = 1_000_000
T0 = 1_800_000_000 * SECOND + 123_457  # digits below the millisecond: BSON dates would lose them
LATE = T0 + 1_000_000 * SECOND

CAUSE = FailureDetails("app.Cause", "ü", non_retryable=False)
FAILURE = FailureDetails("app.Broken", 'it\'s "broken" \x00 {$gt: 1}', "stack\n", CAUSE, True, 2**53 + 1)

HOSTILE_IDS = (
    '{"$gt": ""}',
    "$where",
    "a.b.$",
    "%",
    "_",
    "a",
    "A",
    "a ",
    "a%",
    "a_",
    "ab",
    "';DROP TABLE instances;--",
    '"',
    "''",
    "^a.*",
    "[a-z]",
    "*",
    "null",
    "0",
    "é",
    "e\u0301",
    "日本 🎉",
    "\U0010ffff",
    "\uffff",
    "x" * 256,
)
"""Instance ids that are valid, differ pairwise, and mean something to some query language."""

HOSTILE_TEXTS = (*HOSTILE_IDS, "", "\x00", "a\x00b", "/", "\\", "\\%", "#?", "\n\t", "\u2028")
"""Texts for everything that is not an instance id."""


class Instance:
    """An instance as an engine would drive it: each :meth:`turn` builds its next commit."""

    def __init__(self, instance_id: str, execution_id: str = "e1", **fields_of_record: Any) -> None:
        self.record = new_record(instance_id, execution_id, **fields_of_record)
        self.seq = 0

    @property
    def instance_id(self) -> str:
        return self.record.instance_id

    def turn(
        self,
        *,
        token: str = "token-a",
        events: Sequence[HistoryEvent] | None = None,
        create: bool = False,
        starts: Sequence[Start] = (),
        messages: Sequence[Message] = (),
        drops: Sequence[str] = (),
        consumed: Sequence[str] = (),
        **changes: Any,
    ) -> Commit:
        """The next commit; ``changes`` are fields of the record, which is Running unless they say otherwise."""
        rev = self.record.rev + 1
        now = T0 + rev * SECOND
        changes = {"status": RuntimeStatus.RUNNING, "due_at": None, "updated_at": now} | changes
        self.record = replace(self.record, rev=rev, **changes)
        checkpoint = Checkpoint(
            self.instance_id,
            self.record.execution_id,
            self.seq,
            rev,
            token,
            tuple(events if events is not None else turn_events(now, self.seq)),
        )
        self.seq += 1
        commit = Commit(checkpoint, self.record, create, tuple(messages), tuple(consumed))
        return replace(commit, starts=tuple(starts), drops=tuple(drops))

    def last_turn(self, **options: Any) -> Commit:
        """The commit that completes the instance."""
        now = T0 + (self.record.rev + 1) * SECOND
        ending: dict[str, Any] = {"status": RuntimeStatus.COMPLETED, "output": '"done"', "completed_at": now}
        return self.turn(**(ending | options))

    def continue_as(self, execution_id: str) -> None:
        """Go on as another execution of the same instance."""
        self.record = replace(self.record, execution_id=execution_id)
        self.seq = 0


def new_record(instance_id: str, execution_id: str = "e1", **changes: Any) -> InstanceRecord:
    """A Pending record, due when it was created."""
    created_at = changes.get("created_at", T0)
    values = {
        "name": "orchestrator",
        "partition": partition_of(instance_id, PARTITIONS),
        "created_at": created_at,
        "updated_at": created_at,
        "input": "[1,2]",
        "due_at": created_at,
    }
    return InstanceRecord(instance_id, execution_id, **(values | changes))


def new_message(message_id: str, instance_id: str, *, sent_at: int = T0, event: HistoryEvent | None = None) -> Message:
    """A message to an instance."""
    event = event or TaskCompleted(sent_at, 1, "null")
    return Message(message_id, instance_id, partition_of(instance_id, PARTITIONS), sent_at, event)


def new_worker(worker_id: str) -> WorkerInfo:
    """A worker."""
    return WorkerInfo(worker_id, f"host-of-{worker_id}", 4711, T0 - 5 * SECOND, T0)


def turn_events(now: int, seq: int) -> list[HistoryEvent]:
    """A small turn that tells its ``seq``."""
    return [TaskCompleted(now, seq, f'"{seq}"'), OrchestratorStarted(now), OrchestratorCompleted(now)]


def big_events(size: int, count: int) -> list[HistoryEvent]:
    """``count`` events of ``size`` characters each."""
    return [TaskCompleted(T0, number, '"' + chr(97 + number % 26) * size + '"') for number in range(count)]


def rival_of(commit: Commit, token: str = "token-b") -> Commit:
    """What another writer would commit in the same place."""
    now = commit.record.updated_at
    events = (OrchestratorStarted(now), ExecutionCompleted(now, "Failed", None, FAILURE), OrchestratorCompleted(now))
    return replace(
        commit,
        checkpoint=replace(commit.checkpoint, token=token, events=events),
        record=replace(commit.record, status=RuntimeStatus.FAILED, failure=FAILURE, due_at=None),
    )


def every_event() -> Iterator[HistoryEvent]:
    """Each kind of history event: with all its fields, with the required ones only, with hostile texts."""
    for cls in get_args(HistoryEvent):
        hints = get_type_hints(cls)
        yield _full(cls, "text")
        yield cls(**{f.name: _sample(hints[f.name], "text") for f in fields(cls) if _is_required(f)})
        for text in HOSTILE_TEXTS:
            yield _full(cls, text)


def _is_required(declared: Field[Any]) -> bool:
    return declared.default is MISSING and declared.default_factory is MISSING


def _full(cls: type[Any], text: str) -> Any:
    """A value of that class with all its fields."""
    hints = get_type_hints(cls)
    return cls(**{f.name: _sample(hints[f.name], text) for f in fields(cls) if f.init})


def _sample(hint: Any, text: str) -> Any:
    """A value for a field of that type; a new kind of field must be taught here."""
    [kind] = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    samples = {
        int: 2**53 + 1,  # a float would lose it
        str: text,
        bool: len(text) % 2 == 1,  # there are texts for both
        FailureDetails: replace(FAILURE, message=text),
        Mapping[str, str]: {"tag": text, "$set": "a.b"},
    }
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        alternatives = [first] * 2 if get_origin(first) in (None, tuple) else get_args(first)
        return tuple(_sample(part, text) for part in (alternatives if rest == [...] else [first, *rest]))
    return samples[kind] if kind in samples else _full(kind, text)


# --- the shortest way in and out ----------------------------------------------------------


async def create(backend: Backend, *instances: Instance) -> None:
    """Create the instances; all must be new."""
    answers = await backend.create_instances([instance.record for instance in instances])
    assert list(answers) == [None] * len(instances)


async def apply(backend: Backend, *commits: Commit) -> None:
    """Commit and settle; all must succeed."""
    assert list(await backend.commit(commits)) == [CommitOutcome.COMMITTED] * len(commits)
    await backend.settle(commits)


async def record_of(backend: Backend, instance_id: str) -> InstanceRecord:
    """The record of an instance that must be there."""
    [record] = await backend.get([instance_id])
    assert record is not None
    return record


async def inbox_of(backend: Backend, *instance_ids: str) -> list[str]:
    """The ids of the messages these instances would receive."""
    return [message.message_id for message in await backend.receive(instance_ids)]


async def runnable_ids(backend: Backend, until: int = LATE, *, include_busy: bool = True) -> list[str]:
    """The ids of all runnable instances in all partitions."""
    found: Sequence[Wakeup] = await backend.runnable(range(PARTITIONS), until, include_busy=include_busy)
    return [wakeup.instance_id for wakeup in found]


async def query_all(backend: Backend, query: Query) -> list[InstanceRecord]:
    """The records of all pages."""
    found: list[InstanceRecord] = []
    for _ in range(1000):
        page = await backend.query(query)
        assert len(page.records) <= query.page_size
        found += page.records
        if page.continuation is None:
            return found
        query = replace(query, continuation=page.continuation)
    raise AssertionError(f"paging does not end: {query}")
