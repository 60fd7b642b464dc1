"""The task hub: what users hold. Definitions, a connection, a client, and a worker while one runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from durable.backend_queries import Grouping
from durable.core.errors import FailureDetails
from durable.core.events import TaskCompleted, TaskFailed
from durable.core.ids import EntityId
from durable.definitions import Orchestrator
from durable.entity_client import CALL, EntityClient, EntityState
from durable.handle import InstanceHandle
from durable.hub_connection import HubConnection
from durable.payloads import decode, encode
from durable.projection import TraceMode, trace_url
from durable.querying import Conditions, InstanceQuery, make_query
from durable.starting import OnConflict, start

if TYPE_CHECKING:
    from starlette.applications import Starlette

TRACE_URL_TEMPLATE = "TRACE_URL_TEMPLATE"
"""The environment variable with the template of :meth:`TaskHub.trace_url`."""

P = ParamSpec("P")
R = TypeVar("R")


class TaskHub(HubConnection):
    """A named set of instances in one store, and the definitions this process knows.

    ``url`` chooses the store: ``sqlite:///file.db``, ``mongodb://host/database``, ``memory://`` (or a
    backend object). ``name`` keeps several hubs in one store apart. Without them the environment says (``DURABLE_URL``,
    ``DURABLE_HUB``), or it is the hub ``default`` in the file durable.db of the current directory; ``settings`` come
    from the environment, too (:meth:`Settings.from_env`). ``http`` makes the calls of ``ctx.call_http``: give one that
    knows your token sources, or that refuses what must not be called.

    ``async with hub:`` connects a client; ``async with hub.worker():`` also runs instances here.
    """

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
        session: Any = None,
        debounce: timedelta | None = None,
        debounce_limit: timedelta | None = None,
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
        session: Any = None,
        debounce: timedelta | None = None,
        debounce_limit: timedelta | None = None,
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
        session: Any = None,
        debounce: timedelta | None = None,
        debounce_limit: timedelta | None = None,
        **kwargs: Any,
    ) -> InstanceHandle[Any]:
        """Create an instance of ``orchestrator`` (a definition or its name) and return its handle.

        When this returns, the instance is durable. ``args`` and ``kwargs`` are the orchestrator's, without
        the context. ``instance_id`` defaults to a new one. With ``start_at`` (a time with a time zone) it is Pending
        until then.

        ``on_conflict`` says what becomes of another instance of that id: "raise" and "use_existing" leave it alone;
        "replace_finished" purges it if it has ended; "terminate_existing" also terminates it if it has not, with its
        children, and waits for its end for the setting ``start_timeout``.

        With ``session``, a client session of motor or pymongo in a transaction, the start is a part of that
        transaction: the instance begins when it commits, and never was when it aborts. The driver's errors come as
        they are then, for ``with_transaction`` to try again.

        With ``debounce`` it begins after that time without another such start of ``instance_id``: each one that
        comes before it has begun pushes it back and replaces its arguments, until ``debounce_limit`` after the first.
        When it has begun, ``on_conflict`` holds.

        Raises:
            InstanceExistsError: an instance of that id exists, and ``on_conflict`` leaves it where it is.
            UnknownFunctionError: this process knows orchestrators, but none of that name.
            PayloadError: an argument cannot be written as JSON or does not fit its annotation.
            ValueError: the instance id, a tag, ``start_at``, ``on_conflict`` or ``debounce`` breaks a rule, or
                ``session`` is in no transaction of this store (TypeError: it is no such session).
            TransactionsNotSupportedError: there is a ``session``, and the store has no transactions.
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
            session=session,
            debounce=debounce,
            debounce_limit=debounce_limit,
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

    async def trace_url(self, instance_id: str, template: str | None = None, *, trace: TraceMode = "own") -> str | None:
        """Where the trace of an instance can be seen; None without a template.

        ``template`` is a URL with ``{trace_id}``, and ``{instance_id}`` and ``{hub}`` if you like; it defaults to the
        environment variable ``TRACE_URL_TEMPLATE``. ``trace`` is how instances are traced (``TraceSettings.trace``).
        Raises InstanceNotFoundError, ValueError for a template with other names.
        """
        chosen = os.environ.get(TRACE_URL_TEMPLATE) if template is None else template
        if not chosen:
            return None
        return trace_url(chosen, self.name, await self._connected().record(instance_id), trace=trace)

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

    def _entities(self) -> EntityClient:
        return EntityClient(self._connected(), self)

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
