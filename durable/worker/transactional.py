"""Transactional activities: what an attempt writes and its outcome are one transaction of the store.

Rule of this file: the outcome is a message to the attempt's instance, as if the call were completed from outside. Its
id is the call's, so of all deliveries of one call a single one commits; the writes of the others vanish.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from durable.backend import Backend, Message
from durable.core.events import TaskCompleted, TaskScheduled
from durable.core.ids import partition_of
from durable.definitions import Activity
from durable.transactions import JoinedTransaction, transactional
from durable.worker.patience import Patience


class _AlreadyDone(Exception):  # noqa: N818 - not an error: how a transaction ends that came second
    """An earlier delivery of this call has committed."""


class Transactions:
    """Runs the transactions of activities. ``post`` hears of outcomes in the store, ``read_inbox`` of instances."""

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        patience: Patience,
        post: Callable[[Message], None],
        read_inbox: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._count = partition_count
        self._patience = patience
        self._post = post
        self._read_inbox = read_inbox

    def check(self, activities: Iterable[Activity[Any, Any]]) -> None:
        """Raises TransactionsNotSupportedError when one of ``activities`` cannot be run on this store."""
        for activity in activities:
            if activity.transactional:
                transactional(self._backend, f"transactional activity {activity.name!r}")

    async def run(
        self,
        instance_id: str,
        execution_id: str,
        scheduled: TaskScheduled,
        work: Callable[[Any], Awaitable[TaskCompleted]],
    ) -> None:
        """Run ``work`` with a session, and commit what it wrote with the outcome that it returned.

        Raises what ``work`` raised, of which nothing is kept then.
        """
        store = transactional(self._backend, f"transactional activity {scheduled.name!r}")

        async def whole(session: Any, transaction: JoinedTransaction) -> Message:
            completed = await work(session)
            message = Message(
                f"{instance_id}/{execution_id}/{scheduled.task_id:08d}/transaction",
                instance_id,
                partition_of(instance_id, self._count),
                completed.timestamp,
                completed,
                execution_id,
            )
            if not await transaction.send(message):
                raise _AlreadyDone
            return message

        try:
            message = await self._patience.insist(lambda: store.in_transaction(whole))
        except _AlreadyDone:
            self._read_inbox(instance_id)
        else:
            self._post(message)
