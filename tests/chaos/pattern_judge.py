"""An independent judge of the whole mix: sagas, retries, queues, batches, and what clients signalled.

Rule of this file: as in ``messaging_judge.py``, which judges the rest: no engine code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tests.chaos.checker import StoredInstance
from tests.chaos.messaging_judge import Judge, entity_state, messaging_findings
from tests.chaos.workload import Job, advance


def pattern_findings(
    instances: Collection[StoredInstance], jobs: Mapping[str, Job], disturbed: Mapping[str, str], *, keep: int
) -> list[str]:
    """All that is wrong with what became of ``jobs``: as ``messaging_findings``, with the patterns as well."""
    present = {instance.instance_id: instance for instance in instances}
    found = messaging_findings(instances, _with_children(jobs), disturbed, keep=keep, judges=_JUDGES)
    return found + list(_stocks(present, jobs, disturbed))


def signal_findings(
    instances: Iterable[StoredInstance], entity_id: str, confirmed: Sequence[str], doubtful: Collection[str]
) -> list[str]:
    """What is wrong with the entries that one client signalled to a counter.

    Those that were ``confirmed`` are there once and in their order, those that are ``doubtful`` once or not at all.
    """
    present = {instance.instance_id: instance for instance in instances}
    entries: list[str] = entity_state(present, entity_id).get("entries", [])
    certain = [entry for entry in entries if entry not in set(doubtful)]
    found = [] if certain == list(confirmed) else [f"{entity_id}: confirmed were {confirmed}, taken in {certain}"]
    return found + [f"{entity_id}: {entry} is there twice" for entry in doubtful if entries.count(entry) > 1]


def _with_children(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """``jobs``, and the transfers of which batches consist."""
    every = dict(jobs)
    for name, given in jobs.items():
        if given.name == "batch":
            every |= {f"{name}-{number}": Job("transfer", tuple(one)) for number, one in enumerate(given.args[0])}
    return every


def _stocks(
    present: Mapping[str, StoredInstance], jobs: Mapping[str, Job], disturbed: Mapping[str, str]
) -> Iterable[str]:
    """A trip that works holds what it reserved; every other one gave back whatever it did reserve, once."""
    for name, given in jobs.items():
        if given.name != "trip" or name not in present:
            continue
        value, works = given.args
        for shop, amount in (("hotel", value), ("flight", advance(value))):
            moves = entity_state(present, f"@stock@{shop}").get("moves", {}).get(name, [])
            if present[name].status == "Canceled" and name in disturbed:
                right = moves in ([], [amount, -amount])
            else:
                right = moves == ([amount] if works else [amount, -amount])
            if not right:
                yield f"{name}: of {amount} at the {shop}, for a trip that works={works}, the moves are {moves}"


def _judge_trip(name: str, args: Sequence[Any], result: Any) -> str | None:
    value, works = advance(advance(args[0])), args[1]
    wanted = value if works else f"{value} is refused"
    return None if result == wanted else f"should have given {wanted!r}, gave {result!r}"


def _judge_retrying(name: str, args: Sequence[Any], result: Any) -> str | None:
    value = advance(args[0])
    wanted = {"value": value, "refusal": f"{value} is refused"}
    return None if result == wanted else f"should have given {wanted}, gave {result}"


def _judge_queued(name: str, args: Sequence[Any], result: Any) -> str | None:
    wanted = 2 * [advance(number) for number in range(args[0])]
    return None if result == wanted else f"should have given {wanted}, gave {result}"


def _judge_generations(name: str, args: Sequence[Any], result: Any) -> str | None:
    wanted, more = args
    for _ in range(more + 1):
        wanted = advance(wanted)
    return None if result == wanted else f"should have given {wanted}, gave {result}"


def _judge_batch(name: str, args: Sequence[Any], result: Any) -> str | None:
    right = len(result) == len(args[0]) and all(before == after for before, after in result)
    return None if right else f"its {len(args[0])} transfers should have kept their sums, gave {result}"


_JUDGES: dict[str, Judge] = {
    "trip": _judge_trip,
    "retrying": _judge_retrying,
    "queued": _judge_queued,
    "generations": _judge_generations,
    "batch": _judge_batch,
}
