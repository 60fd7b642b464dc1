"""What follows from committed checkpoints: the steps of ``settle``, each one command for all commits.

Rule of this file: the order. A step that clears a trigger comes after the steps that the trigger stands for, and
no history goes while a record may still be in it, as nothing but the record leads to its successor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from durable.backend import Commit, InstanceRecord, Message, Start
from durable.core.ids import start_of
from durable_mongodb._documents import record_changes, record_to_document
from durable_mongodb._driver import UpdateOne
from durable_mongodb._history import delete_executions
from durable_mongodb._hub import Hub
from durable_mongodb._indexes import IS_WHOLE


async def settle(hub: Hub, commits: Sequence[Commit]) -> None:
    """See :meth:`durable.backend.Backend.settle`. At most five write commands, unless an execution both ends and goes.

    Raises BackendUnavailable at any step; all of them may be repeated.
    """
    for some in _rounds(commits):
        await _settle(hub, some)


def _rounds(commits: Sequence[Commit]) -> list[list[Commit]]:
    """The commits in batches, in none of which one drops the history that another of its instance belongs to.

    Else a crash between two steps could leave a record in an execution whose history is gone: it would begin anew.
    """
    rounds: list[list[Commit]] = []
    place: defaultdict[str, int] = defaultdict(int)
    executions: defaultdict[str, set[str]] = defaultdict(set)
    for commit in commits:
        instance_id = commit.record.instance_id
        if not executions[instance_id].isdisjoint(commit.drops):
            place[instance_id] += 1
            executions[instance_id].clear()
        executions[instance_id].add(commit.checkpoint.execution_id)
        if place[instance_id] == len(rounds):
            rounds.append([])
        rounds[place[instance_id]].append(commit)
    return rounds


async def _settle(hub: Hub, commits: Sequence[Commit]) -> None:
    refused = await _start(hub, [start for commit in commits for start in commit.starts])
    await hub.send(refused + [message for commit in commits for message in commit.messages])
    dropped: defaultdict[str, set[str]] = defaultdict(set)
    for commit in commits:
        if commit.drops:
            dropped[commit.record.instance_id].update(commit.drops)
    await delete_executions(hub.history, dropped)
    await hub.instances.write_each([_replacement(record) for record in _newest(commits)])
    consumed = [message_id for commit in commits for message_id in commit.consumed]
    await hub.consume(consumed, max((commit.record.updated_at for commit in commits if commit.consumed), default=0))


async def _start(hub: Hub, starts: Sequence[Start]) -> list[Message]:
    """Create the instances; the messages to send instead of those whose id another start holds."""
    others = await hub.create([record_to_document(start.record) for start in starts])
    instead = (starts[position].otherwise for position in sorted(others))
    return [message for message in instead if message is not None]


def _newest(commits: Iterable[Commit]) -> Iterable[InstanceRecord]:
    """The last record of each instance."""
    in_order = sorted((commit.record for commit in commits), key=attrgetter("rev"))
    return {record.instance_id: record for record in in_order}.values()


def _replacement(record: InstanceRecord) -> UpdateOne:
    # Of the same start: its execution ids are the first one, and that with a dot and a number.
    first = start_of(record.execution_id)
    same = {"execution_id": {"$gte": first, "$lt": f"{first}/"}}
    where = {"_id": record.instance_id, "rev": {"$lt": record.rev}} | same | IS_WHOLE
    return UpdateOne(where, {"$set": record_changes(record)})
