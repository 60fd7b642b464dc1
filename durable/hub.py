"""The task hub: what users hold. Definitions, a connection, a client, and a worker while one runs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from durable.backend import Backend, BackendUnavailable, CommitOutcome, Hint, InstanceRecord, Message
from durable.backend_queries import Grouping
from durable.backend_url import create_backend
from durable.client import Client
from durable.clock import Clock, system_clock
from durable.core.errors import DurableError, FailureDetails
from durable.core.events import TaskCompleted, TaskFailed
from durable.core.ids import EntityId, check_hub_name
from durable.definitions import Orchestrator
from durable.entity_client import CALL, EntityClient, EntityState, call_entity
from durable.environment import hub_location
from durable.handle import InstanceHandle
from durable.health import HubHealth, WorkerStatus, check_health, list_workers
from durable.httpcall.activity import HttpCaller
from durable.httpcall.values import ACTIVITY_NAME
from durable.payloads import decode, encode
from durable.querying import Conditions, InstanceQuery, make_query
from durable.registry import Registry
from durable.serving import stop_signals, wait_until
from durable.settings import Settings
from durable.starting import OnConflict, start
from durable.waiting import Waiters
from durable.worker.worker import Worker

if TYPE_CHECKING:
    from starlette.applications import Starlette

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("durable.hub")


class TaskHub(Registry):
    """A named set of instances in one store, and the definitions this process knows.

    ``url`` chooses the store: ``sqlite:///file.db``, ``mongodb://host/database``, ``memory://`` (or a
    backend object). ``name`` keeps several hubs in one store apart. Without them the environment says (``DURABLE_URL``,
    ``DURABLE_HUB``), or it is the hub ``default`` in the file durable.db of the current directory; ``settings`` come
    from the environment, too (:meth:`Settings.from_env`). ``http`` makes the calls of ``ctx.call_http``: give one that
    knows your token sources, or that refuses what must not be called.

    ``async with hub:`` connects a client; ``async with hub.worker():`` also runs instances here.
    """

    def __init__(
        self,
        url: str | Backend | None = None,
        *,
        name: str | None = None,
        settings: Settings | None = None,
        clock: Clock = system_clock,
        http: HttpCaller | None = None,
    ) -> None:
        super().__init__()
        self._http = http or HttpCaller()
        self.activity(name=ACTIVITY_NAME)(self._http.call)
        self.orchestrator(name=CALL)(call_entity)
        location, name = hub_location(url if isinstance(url, str) else None, name, os.environ)
        self.name: str = check_hub_name(name)
        self.settings: Settings = settings or Settings.from_env()
        self._url: str | Backend = location if url is None or isinstance(url, str) else url
        self._clock = clock
        self._users = 0
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None
        self._partition_count = 0
        self._client: Client | None = None
        self._worker: Worker | None = None
        self._background: list[asyncio.Task[None]] = []

    # --- connecting ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with self._opening:
            if self._users == 0:
                await self._open()
            self._users += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        async with self._opening:
            self._users -= 1
            if self._users == 0:
                await self._close()

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncIterator[Self]:
        """Connect, and run instances in this process until the block ends; then hand the work over.

        ``settings`` override those of the hub (see :class:`Settings`). Raises RegistrationError for
        definitions whose annotations cannot be used, RuntimeError when the hub has a worker here already.
        """
        chosen = replace(self.settings, **settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self)
            if self._worker is not None:
                raise RuntimeError(f"task hub {self.name!r} has a worker in this process already")
            assert self._backend is not None
            worker = Worker(
                self._backend, self._partition_count, self, chosen, self._clock, self._connected().waiters.committed
            )
            self._worker = worker
            try:
                await worker.start()
                yield self
            finally:
                try:
                    await worker.stop()
                finally:
                    self._worker = None
                    await self._http.close()

    async def run_worker(self, **settings: Any) -> None:
        """Run a worker until SIGTERM or SIGINT comes, then stop gracefully, for at most ``drain_time`` seconds.

        A second signal stops it at once and raises :class:`durable.serving.Stopped`. For programs that are a worker
        and nothing else; it has to run in the main thread. Raises as :meth:`worker`, and what a worker fails with.
        """
        async with stop_signals() as stopped, self.worker(**settings):
            assert self._worker is not None
            _log.info("worker %s runs hub %r", self._worker.worker_id, self.name)
            await wait_until(stopped, lambda: self._worker is None or self._worker.failure is not None)
        _log.info("the worker of hub %r has stopped", self.name)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """A worker and a client for as long as an ASGI application runs: ``FastAPI(lifespan=hub.lifespan)``."""
        async with self.worker():
            yield

    @asynccontextmanager
    async def client_lifespan(self, app: object) -> AsyncIterator[None]:
        """A client alone for as long as an ASGI application runs; workers run elsewhere."""
        async with self:
            yield

    async def _open(self) -> None:
        backend = create_backend(self._url, self.name) if isinstance(self._url, str) else self._url
        self._partition_count = await backend.open(self.settings.partitions)
        self._backend = backend
        waiters = Waiters(backend, self._is_live)
        self._client = Client(
            backend,
            self._partition_count,
            self,
            self.settings,
            self._clock,
            waiters,
            local_start=self._start_in_worker,
            created=self._hint_worker,
            sent=self._post_to_worker,
            record_ahead=self._record_ahead,
        )
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(self._watch(backend), name="durable-watch"),
            loop.create_task(waiters.run(), name="durable-waiters"),
        ]

    async def _close(self) -> None:
        assert self._backend is not None
        for task in self._background:
            task.cancel()
        await asyncio.wait(self._background)
        backend, self._backend, self._client = self._backend, None, None
        await backend.close()

    async def _watch(self, backend: Backend) -> None:
        try:
            async for hint in backend.watch():
                if self._worker is not None:
                    self._worker.hint(hint)
                if self._client is not None:
                    self._client.waiters.hint(hint.instance_id)
        except BackendUnavailable as error:
            _log.warning("hints from the store stopped, polling goes on: %s", error)

    def _start_in_worker(self, record: InstanceRecord, done: Callable[[CommitOutcome | None], None]) -> bool:
        return self._worker is not None and self._worker.start_instance(record, done)

    def _hint_worker(self, instance_id: str) -> None:
        if self._worker is not None:
            self._worker.hint(Hint(instance_id))

    def _post_to_worker(self, message: Message) -> None:
        if self._worker is not None:
            self._worker.post(message)

    def _record_ahead(self, instance_id: str) -> InstanceRecord | None:
        return None if self._worker is None else self._worker.record_ahead(instance_id)

    def _is_live(self, instance_id: str) -> bool:
        return self._worker is not None and self._worker.has_live(instance_id)

    def _connected(self) -> Client:
        if self._client is None:
            raise DurableError(
                f"task hub {self.name!r} is not connected; use `async with hub:` or `async with hub.worker():`"
            )
        return self._client

    # --- instances -----------------------------------------------------------------------------

    @overload
    async def start(
        self,
        orchestrator: Orchestrator[..., R],
        *args: Any,
        instance_id: str | None = None,
        start_at: datetime | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "raise",
        **kwargs: Any,
    ) -> InstanceHandle[R]: ...
    @overload
    async def start(
        self,
        orchestrator: str,
        *args: Any,
        instance_id: str | None = None,
        start_at: datetime | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "raise",
        **kwargs: Any,
    ) -> InstanceHandle[Any]: ...
    async def start(
        self,
        orchestrator: Orchestrator[..., Any] | str,
        *args: Any,
        instance_id: str | None = None,
        start_at: datetime | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        on_conflict: OnConflict = "raise",
        **kwargs: Any,
    ) -> InstanceHandle[Any]:
        """Create an instance of ``orchestrator`` (a definition or its name) and return its handle.

        When this returns, the instance is durable. ``args`` and ``kwargs`` are the orchestrator's, without
        the context. ``instance_id`` defaults to a new one. With ``start_at`` (a time with a time zone) it is Pending
        until then.

        ``on_conflict`` says what becomes of another instance of that id: "raise" and "use_existing" leave it alone;
        "replace_finished" purges it if it has ended; "terminate_existing" also terminates it if it has not, with its
        children, and waits for its end for the setting ``start_timeout``.

        Raises:
            InstanceExistsError: an instance of that id exists, and ``on_conflict`` leaves it where it is.
            UnknownFunctionError: this process knows orchestrators, but none of that name.
            PayloadError: an argument cannot be written as JSON or does not fit its annotation.
            ValueError: the instance id, a tag, ``start_at`` or ``on_conflict`` breaks a rule.
            BackendUnavailable: the store did not confirm in time; it may or may not have been started.
        """
        started = await start(
            self._connected(),
            orchestrator,
            args,
            kwargs,
            instance_id=instance_id,
            start_at=start_at,
            version=version,
            tags=tags,
            on_conflict=on_conflict,
        )
        return InstanceHandle(started, self._connected, None if isinstance(orchestrator, str) else orchestrator)

    def get(self, instance_id: str) -> InstanceHandle[Any]:
        """The handle of an instance; whether it exists shows when the handle is used."""
        return InstanceHandle(instance_id, self._connected)

    def query(
        self,
        *,
        order: Literal["newest", "oldest"] = "newest",
        page_size: int = 100,
        continuation: str | None = None,
        **conditions: Unpack[Conditions],
    ) -> InstanceQuery:
        """The instances that match all given conditions, by creation, read in pages; entities are not among them.

        ``status`` (one or several), ``name``, ``id_prefix``; ``created_between`` and ``updated_between`` (from, to),
        inclusive, either may be None; ``tags``, which all must match; ``custom_status``, a JSON value that must be
        equal. ``continuation`` is that of an earlier page with the same conditions. Raises TypeError or ValueError,
        naming it, for a value that cannot be used.
        """
        query = make_query(order=order, page_size=page_size, continuation=continuation, **conditions)
        return InstanceQuery(self._connected, query)

    async def count(self, by: Grouping = "status", **conditions: Unpack[Conditions]) -> dict[str, int]:
        """How many instances match the conditions of :meth:`query`, by status or name; counted in the store."""
        return await self.query(**conditions).count(by)

    # --- activities that are completed from outside ----------------------------------------------

    async def complete_activity(self, task_token: str, result: Any = None) -> None:
        """Complete an activity call whose function returned ``complete_later()``; the first outcome counts.

        Raises ValueError for a bad token, InstanceNotFoundError, InstanceFinishedError when nobody waits any more.
        """
        payload = encode(result, "the result")
        await self._connected().complete_task(task_token, lambda now, task_id: TaskCompleted(now, task_id, payload))

    async def fail_activity(self, task_token: str, error: BaseException) -> None:
        """Fail an activity call whose function returned ``complete_later()``. Raises as :meth:`complete_activity`."""
        details = FailureDetails.of(error)
        await self._connected().complete_task(task_token, lambda now, task_id: TaskFailed(now, task_id, details))

    # --- entities ------------------------------------------------------------------------------

    async def signal_entity(
        self, entity: Any, key: str, /, *args: Any, signal_time: datetime | None = None, **kwargs: Any
    ) -> None:
        """Have an entity do an operation, not before ``signal_time``; durable on return.

        By method and key, ``hub.signal_entity(Account.deposit, "alice", 10)``, or by id and name,
        ``hub.signal_entity(EntityId("account", "alice"), "deposit", 10)``. Raises PayloadError, UnknownFunctionError.
        """
        await self._entities().signal(entity, key, args, kwargs, signal_time)

    @overload
    async def call_entity(
        self,
        entity: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        key: str,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call_entity(
        self, entity: Callable[Concatenate[Any, P], R], key: str, /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call_entity(self, entity: EntityId, operation: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call_entity(self, entity: Any, key: str, /, *args: Any, **kwargs: Any) -> Any:
        """Have an entity do an operation and return the result. Arguments as :meth:`signal_entity`.

        It is a small orchestration that makes the call, so the operation is done even if this process goes away.
        Raises OrchestrationFailedError when the operation raised; the operation's error is the cause in its details.
        """
        entity_id, operation, payload = self._entities().encoded(entity, key, args, kwargs)
        handle = await self.start(CALL, str(entity_id), operation, decode(payload))
        try:
            result = await handle.result()
        finally:
            self._in_background(self._connected().forget(handle.instance_id))
        target = self.operation_target(entity_id.name, operation)
        return target.decode_result(encode(result, "the result"))

    async def read_entity(self, entity_id: EntityId) -> EntityState | None:
        """An entity's committed state, typed by its class where that is registered here; None when it has none."""
        return await self._entities().read(entity_id)

    def query_entities(self, name: str | None = None, *, page_size: int = 100) -> AsyncIterator[EntityState]:
        """The entities that have a state, all or those of one class, newest first, read in pages."""
        return self._entities().list(name, page_size)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody waits for; closing the hub gives it up."""
        task = asyncio.get_running_loop().create_task(work, name="durable-upkeep")
        self._background.append(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if task in self._background:
            self._background.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("upkeep failed and is left undone: %r", error)

    def _entities(self) -> EntityClient:
        return EntityClient(self._connected(), self)

    # --- looking at the hub --------------------------------------------------------------------

    async def health(self) -> HubHealth:
        """How the hub stands here: asks the store, for two seconds at most, and the worker. Never raises for it."""
        return await check_health(self.name, self._backend, self._worker, self._clock)

    async def workers(self) -> list[WorkerStatus]:
        """The workers of this hub in all processes, by id. Raises DurableError, BackendUnavailable."""
        self._connected()
        assert self._backend is not None
        return await list_workers(self._backend, self._clock)

    # --- HTTP ------------------------------------------------------------------------------------

    def http_app(self, **options: Any) -> Starlette:
        """The HTTP API of this hub, to mount in an application or to serve; docs/http_api.md has what it answers.

        ``authorize`` is asked about each request (see ``durable.http.Authorizer``, ``bearer``, ``api_key``); without
        one, only requests that came to a loopback address are served, unless ``allow_anonymous=True``. ``base_path`` is
        where the paths begin (``/runtime/webhooks/durabletask``), ``max_body`` how many bytes a request may have
        (10 MiB), ``cors`` the origins whose pages may use it (none), ``trust_forwarded`` whether links follow
        ``X-Forwarded-Proto``, ``-Host`` and ``-Prefix`` (no), ``retry_after`` the seconds between two polls.

        Raises ModuleNotFoundError without the extra ``http``, ValueError for options that make no sense.
        """
        # By name: what is above the hub is not imported by it, and needs packages that the hub does not.
        app: Starlette = import_module("durable.http").create_app(self, **options)
        return app

    @property
    def healthy(self) -> bool:
        """Whether the hub is connected and, if a worker runs here, it works and its store answers."""
        return self._client is not None and (self._worker is None or self._worker.healthy)
