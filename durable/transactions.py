"""Transactions: what a store may offer beyond the port, for those who keep their own data in it.

Rule of this file: nothing in the engine depends on it. The commit protocol needs no transaction; a start, an event or
an activity's outcome can be made part of one of the user's, so that they are there when his writes are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from durable.backend import Backend, BackendError, InstanceRecord, Message

R = TypeVar("R")


class TransactionsNotSupportedError(BackendError):
    """The store of this task hub has no transactions that one could join."""


class JoinedTransaction(Protocol):
    """Writes that commit, or vanish, with the transaction of a session.

    The driver's errors come as they are: its own ``with_transaction`` tells by them what to try again.
    """

    async def get(self, instance_id: str) -> InstanceRecord | None:
        """The record as the transaction sees it."""
        ...

    async def create(self, record: InstanceRecord) -> InstanceRecord | None:
        """Insert a Pending record; the one that is there already, if another start has made one."""
        ...

    async def send(self, message: Message) -> bool:
        """Insert a message; False when its id is known already."""
        ...

    async def put_payloads(self, instance_id: str, payloads: Mapping[str, bytes]) -> None:
        """See :meth:`durable.backend.Backend.put_payloads`."""
        ...


@runtime_checkable
class TransactionalBackend(Protocol):
    """A backend whose store has transactions."""

    async def join(self, session: Any) -> JoinedTransaction:
        """Take part in the transaction of the user's ``session``.

        Raises TransactionsNotSupportedError; TypeError or ValueError for a session that cannot be used, saying why.
        """
        ...

    async def in_transaction(self, work: Callable[[Any, JoinedTransaction], Awaitable[R]]) -> R:
        """Run ``work`` with a new session in a transaction, commit it durably, and return what it returned.

        When the store asks for it, ``work`` is run again from the start, in a new transaction. What it raises aborts
        the transaction. Raises TransactionsNotSupportedError.
        """
        ...


def transactional(backend: Backend, what: str) -> TransactionalBackend:
    """``backend`` as one that has transactions, for ``what``. Raises TransactionsNotSupportedError."""
    if isinstance(backend, TransactionalBackend):
        return backend
    raise TransactionsNotSupportedError(
        f"{what} needs a store with transactions, which {type(backend).__name__} has not; use MongoDB (a replica set)"
    )
