"""ConnectionThread: a thread that owns one SQLite connection and runs operations on it, in order.

Rule of this file: the hand-over between the event loop and a connection, and nothing about tables.
One write costs one fsync, and all writes that wait are put into one transaction (group commit).
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from durable.backend import BackendClosed, BackendUnavailable

_T = TypeVar("_T")
_P = TypeVar("_P")

_MAX_GROUP = 256
_LOOK_SECONDS = 0.05
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def translated(error: Exception) -> Exception:
    """``error``, or the BackendUnavailable that it means. A mistake of the program stays as it is."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.Error) or code is None or code & 0xFF not in _UNAVAILABLE:
        return error
    unavailable = BackendUnavailable(f"SQLite did not do it: {error} ({error.sqlite_errorname}); repeat the operation")
    unavailable.__cause__ = error
    return unavailable


class _Job(NamedTuple):
    operation: Callable[[sqlite3.Connection], Any]
    writes: bool
    future: asyncio.Future[Any]


class _Prepared(Generic[_P]):
    """What ``make`` makes, for two threads that do not wait for each other: each finds it or makes it."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], _P]) -> None:
        self._make = make
        self._made: _P | None = None

    def get(self) -> _P:
        made = self._made
        if made is None:
            made = self._made = self._make()
        return made


class _Watch(NamedTuple):
    future: asyncio.Future[bool]


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: Exception | None


class ConnectionThread:
    """Runs operations on a connection that ``connect`` makes, one at a time, in the order in which they were asked for.

    An operation whose caller was cancelled runs to its end all the same.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: SimpleQueue[_Job | _Watch | None] = SimpleQueue()
        self._held: _Job | _Watch | None = None
        self._watchers: list[asyncio.Future[Any]] = []
        self._seen: int | None = None
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.stopping = False

    async def start(self) -> None:
        """Start the thread and connect. Raises what ``connect`` raises, after which the thread has ended."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        await self._connected

    async def stop(self) -> None:
        """Let what was asked for end, close the connection, end the thread; also when the caller is cancelled."""
        self.request_stop()
        await asyncio.shield(self._ended)
        self._thread.join()

    def request_stop(self) -> None:
        """Take no more operations, and end after those that wait."""
        if not self.stopping:
            self.stopping = True
            self._jobs.put(None)

    def run(self, operation: Callable[[sqlite3.Connection], _T]) -> asyncio.Future[_T]:
        """Run ``operation`` outside a transaction. Its result, or its error, is the future's."""
        return self._submit(operation, writes=False)

    def write(self, operation: Callable[[sqlite3.Connection], _T]) -> asyncio.Future[_T]:
        """Run ``operation`` in a write transaction, which it may share with others; done when that is on disk.

        It may run twice, the first time rolled back, so it has no effect but the one on the database.
        """
        return self._submit(operation, writes=True)

    def write_prepared(
        self, prepare: Callable[[], _P], operation: Callable[[sqlite3.Connection, _P], _T]
    ) -> asyncio.Future[_T]:
        """As :meth:`write`, with what ``prepare`` makes here while the thread wakes up, which takes longer most often.

        A thread that is there sooner prepares for itself, so ``prepare`` may run twice, and has no effects.
        """
        prepared = _Prepared(prepare)
        future = self.write(lambda connection: operation(connection, prepared.get()))
        try:
            prepared.get()
        except BaseException:
            future.cancel()  # it has failed in the thread, too, and this is where it is heard of
            raise
        return future

    def wait_for_change(self) -> asyncio.Future[bool]:
        """True when another connection has committed since the last such answer, or False when this one closes.

        The thread looks every 50 ms while somebody waits.
        """
        future = self._new_future()
        self._jobs.put(_Watch(future))
        return future

    def _submit(self, operation: Callable[[sqlite3.Connection], _T], *, writes: bool) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self._new_future()
        self._jobs.put(_Job(operation, writes, future))
        return future

    def _new_future(self) -> asyncio.Future[Any]:
        if self.stopping:
            raise BackendClosed("the SQLite backend is closed")
        return self._loop.create_future()

    # --- in the thread

    def _work(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            self._deliver([_Outcome(self._connected, None, translated(error)), _Outcome(self._ended, None, None)])
            return
        self._deliver([_Outcome(self._connected, None, None)])
        try:
            while (job := self._next(connection)) is not None:
                if isinstance(job, _Watch):
                    self._watchers.append(job.future)
                elif job.writes:
                    self._deliver(_transact(connection, self._group(job)))
                else:
                    self._deliver([_outcome_of(connection, job)])
        finally:
            connection.close()
            self._tell_watchers(False)
            self._deliver([_Outcome(self._ended, None, None)])

    def _next(self, connection: sqlite3.Connection) -> _Job | _Watch | None:
        """The job that was held, or the next one; looks for changes until it comes."""
        if self._held is not None:
            job, self._held = self._held, None
            return job
        while self._watchers:
            wait = self._look_at - time.monotonic()
            if wait > 0:
                try:
                    return self._jobs.get(timeout=wait)
                except Empty:
                    pass
            self._look(connection)
        return self._jobs.get()

    def _look(self, connection: sqlite3.Connection) -> None:
        """Tell the watchers when another connection has committed: the version is not changed by own commits."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._watchers = [future for future in self._watchers if not future.done()]
        try:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            self._tell_watchers(None, translated(error))
            return
        if self._seen not in (None, version):
            self._tell_watchers(True)
        self._seen = version

    def _tell_watchers(self, value: bool | None, error: Exception | None = None) -> None:
        if self._watchers:
            self._deliver([_Outcome(future, value, error) for future in self._watchers])
            self._watchers = []

    def _group(self, first: _Job) -> list[_Job]:
        """``first`` and the writes that wait behind it."""
        group = [first]
        while len(group) < _MAX_GROUP and not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # it was the last one: nothing is put behind a stop
                break
            if isinstance(job, _Watch) or not job.writes:
                self._held = job
                break
            group.append(job)
        return group

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, outcomes)
        except RuntimeError:
            if not self._loop.is_closed():  # with the loop gone, nobody waits for the outcome any more
                raise


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    for future, value, error in outcomes:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _outcome_of(connection: sqlite3.Connection, job: _Job) -> _Outcome:
    try:
        return _Outcome(job.future, job.operation(connection), None)
    except Exception as error:
        return _Outcome(job.future, None, translated(error))


def _transact(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    """Run ``jobs`` in one transaction; when one of them is at fault, each in its own, so that only that one fails."""
    try:
        return _in_transaction(connection, jobs)
    except Exception as error:
        cause = translated(error)
        if len(jobs) == 1 or isinstance(cause, BackendUnavailable):
            return [_Outcome(job.future, None, cause) for job in jobs]
        return [outcome for job in jobs for outcome in _transact(connection, [job])]


def _in_transaction(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_Outcome(job.future, job.operation(connection), None) for job in jobs]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors
            connection.execute("ROLLBACK")
        raise
    return outcomes  # made before, as somebody waits for the commit
