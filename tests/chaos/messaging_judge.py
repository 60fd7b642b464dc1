"""An independent judge of instances that talk to each other: what they must come to, by plain arithmetic.

Rule of this file: no engine code. It reads instances as they are stored, and the jobs as they were given. A
finding is a sentence; no finding means that every promise was kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.chaos.checker import StoredCheckpoint, StoredInstance
from tests.chaos.workload import Job, advance

ENDED = ("Completed", "Failed", "Canceled", "Terminated")
_TURN_TIMES = ("ExecutionStarted", "OrchestratorStarted", "OrchestratorCompleted")
_ARRIVES_ONCE = ("EventRaised", "EntityOperationCalled", "EntityOperationSignaled", "EntityLockRequested")

Judge = Callable[[str, Sequence[Any], Any], str | None]
"""What is wrong with the result of an instance: of its id, its arguments and the result. None when nothing is."""


def messaging_findings(
    instances: Collection[StoredInstance],
    jobs: Mapping[str, Job],
    disturbed: Mapping[str, str],
    *,
    keep: int,
    judges: Mapping[str, Judge] | None = None,
) -> list[str]:
    """All that is wrong with what became of ``jobs``; ``disturbed`` are those that were ended from outside, and how.

    ``keep`` is how many former executions of an instance may still have a history; ``judges`` know more kinds of job.
    """
    all_judges = _JUDGES | dict(judges or {})
    found: list[str] = []
    for instance in instances:
        found += [f"{instance.instance_id}: {finding}" for finding in _structure(instance, keep)]
        job = jobs.get(instance.instance_id)
        if job is not None:
            verdict = _complaint(job, instance, disturbed.get(instance.instance_id), all_judges)
            found += [f"{instance.instance_id}: {verdict}"] if verdict else []
    present = {instance.instance_id: instance for instance in instances}
    found += _children(present)
    found += _counters(present, {name: job for name, job in jobs.items() if name in present})
    found += _accounts(present, {name: job for name, job in jobs.items() if name in present}, disturbed)
    return found


# --- every instance --------------------------------------------------------------------------


def executions(instance: StoredInstance) -> dict[str, list[StoredCheckpoint]]:
    """The checkpoints by execution, in the order in which they were made."""
    found: dict[str, list[StoredCheckpoint]] = {}
    for checkpoint in sorted(instance.checkpoints, key=lambda one: (one.rev, one.seq)):
        found.setdefault(checkpoint.execution_id, []).append(checkpoint)
    return found


def each_execution(instances: Iterable[StoredInstance]) -> list[StoredInstance]:
    """Each execution of an orchestration as an instance of its own, to be replayed."""
    return [
        replace(instance, execution_id=execution_id, checkpoints=checkpoints)
        for instance in instances
        if not instance.instance_id.startswith("@")
        for execution_id, checkpoints in executions(instance).items()
    ]


def _structure(instance: StoredInstance, keep: int) -> Iterable[str]:
    chain = executions(instance)
    revs = [checkpoint.rev for checkpoints in chain.values() for checkpoint in checkpoints]
    if not revs or revs != list(range(revs[0], instance.rev + 1)):
        yield f"revisions {revs} have a gap, come twice or do not end with the record's {instance.rev}"
    for checkpoints in chain.values():
        seqs = [checkpoint.seq for checkpoint in checkpoints]
        if seqs != list(range(len(seqs))):
            yield f"checkpoint numbers {seqs} have a gap or come twice"
    turns = [e["timestamp"] for c in chain.values() for one in c for e in one.events if e["type"] in _TURN_TIMES]
    if turns != sorted(turns):
        yield f"time goes back between turns: {turns}"
    if len(chain) > keep + 1:
        yield f"{len(chain)} executions have a history, {keep + 1} should"
    ids = Counter(
        event["message_id"]
        for checkpoint in instance.checkpoints
        for event in _arrived(checkpoint)
        if event["type"] in _ARRIVES_ONCE
    )
    twice = sorted(message_id for message_id, times in ids.items() if times > 1)
    if twice:
        yield f"messages were taken in twice: {twice}"
    if instance.problem is not None:
        yield f"has a problem: {instance.problem}"
    if instance.due_at is not None:
        yield f"is still due at {instance.due_at}"
    if not instance.instance_id.startswith("@") and instance.status not in ENDED:
        yield f"is stuck: {instance.status}"


def _arrived(checkpoint: StoredCheckpoint) -> Iterable[Mapping[str, Any]]:
    for event in checkpoint.events:
        if event["type"] == "OrchestratorStarted":
            return
        yield event


def _children(present: Mapping[str, StoredInstance]) -> Iterable[str]:
    """No child outlives its parent."""
    for instance in present.values():
        first = next((one for one in instance.checkpoints if one.seq == 0), None)
        parent = None if first is None else first.events[0].get("parent")
        if parent is not None and instance.status not in ENDED:
            yield f"{instance.instance_id}: is {instance.status} though its parent {parent['instance_id']} has ended"


# --- what each job must come to ----------------------------------------------------------------


def _complaint(job: Job, instance: StoredInstance, disturbance: str | None, judges: Mapping[str, Judge]) -> str | None:
    status = instance.status
    if disturbance is not None and status == disturbance:
        return None
    if job.name in ("hopeless", "patient"):
        return f"should be {disturbance}, is {status}"
    if status != "Completed" or instance.output is None:
        return f"should be Completed, is {status} with {instance.failure}"
    return judges[job.name](instance.instance_id, job.args, json.loads(instance.output))


def _judge_family(name: str, args: Sequence[Any], result: Any) -> str | None:
    (value,) = args
    total = _advanced(value, 3) + _advanced(value + 1, 2) + advance(value)
    refused, taken = result["refusals"]
    right = result["sum"] == total and "-1 is refused" in refused and f"'{name}-named' exists already" in taken
    return None if right else f"should have the sum {total} and two refusals, gave {result}"


def _judge_numbers(name: str, args: Sequence[Any], result: Any) -> str | None:
    senders, count = args[0], args[1]
    for sender in range(senders):
        numbers = [number for who, number in result if who == sender]
        if numbers != list(range(count)):
            return f"sender {sender} sent 0 to {count - 1} in order, received was {numbers}"
    return None if len(result) == senders * count else f"received from strangers: {result}"


def _judge_keyed(name: str, args: Sequence[Any], result: Any) -> str | None:
    return None if sorted(result) == list(range(args[0])) else f"{args[0]} keys were raised, received was {result}"


def _judge_tally(name: str, args: Sequence[Any], result: Any) -> str | None:
    return None if result == sorted(set(result)) else f"places in the order of its calls should grow: {result}"


def _judge_transfer(name: str, args: Sequence[Any], result: Any) -> str | None:
    before, after = result
    return None if before == after else f"{before} became {after} while both accounts were locked"


def _judge_audit(name: str, args: Sequence[Any], result: Any) -> str | None:
    return None if result == 0 else f"the accounts add up to {result}"


_JUDGES: dict[str, Judge] = {
    "family": _judge_family,
    "gathering": _judge_numbers,
    "eternal": _judge_numbers,
    "keyed": _judge_keyed,
    "tally": _judge_tally,
    "transfer": _judge_transfer,
    "audit": _judge_audit,
}


def _advanced(value: int, times: int) -> int:
    for _ in range(times):
        value = advance(value)
    return value


# --- entities ------------------------------------------------------------------------------------


def _counters(present: Mapping[str, StoredInstance], jobs: Mapping[str, Job]) -> Iterable[str]:
    """Every entry once, and those of one caller in its order."""
    wanted: dict[str, Counter[str]] = {}
    for name, job in jobs.items():
        if job.name == "tally":
            key, other = job.args
            numbers = [f"{name}:{what}" for what in (*range(6), "later")]
            wanted.setdefault(key, Counter()).update(numbers)
            wanted.setdefault(other, Counter()).update([f"{name}:forwarded"])
    for key, expected in wanted.items():
        entries = entity_state(present, f"@counter@{key}").get("entries", [])
        got = Counter(entry for entry in entries if jobs[entry.rpartition(":")[0]].name == "tally")
        if got != expected:
            yield f"counter {key}: missing {sorted((expected - got).elements())}, too much {sorted(got - expected)}"
        for name in jobs:
            own = [
                int(entry.rpartition(":")[2]) for entry in entries if entry.startswith(f"{name}:") and _is_step(entry)
            ]
            if own != sorted(own):
                yield f"counter {key}: the entries of {name} are out of order: {own}"


def _is_step(entry: str) -> bool:
    return entry.rpartition(":")[2].isdigit()


def _accounts(
    present: Mapping[str, StoredInstance], jobs: Mapping[str, Job], disturbed: Mapping[str, str]
) -> Iterable[str]:
    """Every transfer at both ends, or - if it was ended from outside - at neither."""
    states = {key: entity_state(present, f"@account@{key}") for key in "abcd"}
    for key, state in states.items():
        if state.get("balance", 0) != sum(state.get("moves", {}).values()):
            yield f"account {key}: the balance is not the sum of its moves: {state}"
    if sum(state.get("balance", 0) for state in states.values()) != 0:
        yield f"the accounts do not add up to nothing: {states}"
    for name, job in jobs.items():
        if job.name == "transfer":
            source, target, amount = job.args
            ends = (states[source].get("moves", {}).get(name), states[target].get("moves", {}).get(name))
            done = ends == (-amount, amount)
            if not done and not (name in disturbed and ends == (None, None)):
                yield f"{name}: should have moved {amount} from {source} to {target}, moved {ends}"


def entity_state(present: Mapping[str, StoredInstance], entity_id: str) -> dict[str, Any]:
    """The state of an entity, empty where there is none."""
    output = present[entity_id].output if entity_id in present else None
    state: dict[str, Any] = {} if output is None else json.loads(output)
    return state
