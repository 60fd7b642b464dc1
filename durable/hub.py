"""The task hub: what users hold. Definitions, a connection, a client, and a worker while one runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Self, TypeVar, overload

from durable.backend import Backend, BackendUnavailable, CommitOutcome, Hint, InstanceRecord, create_backend
from durable.client import Client, InstanceHandle, InstanceStatus, make_query
from durable.clock import Clock, system_clock
from durable.core.errors import DurableError
from durable.core.ids import check_hub_name
from durable.core.state import RuntimeStatus
from durable.definitions import Orchestrator
from durable.registry import Registry
from durable.settings import Settings
from durable.waiting import Waiters
from durable.worker.worker import Worker

R = TypeVar("R")

_log = logging.getLogger("durable.hub")


class TaskHub(Registry):
    """A named set of instances in one store, and the definitions this process knows.

    ``url`` chooses the store: ``sqlite:///file.db``, ``mongodb://host/database``, ``memory://`` (or a
    backend object). ``name`` keeps several hubs in one store apart.

    ``async with hub:`` connects a client; ``async with hub.worker():`` also runs instances here.
    """

    def __init__(
        self,
        url: str | Backend,
        *,
        name: str = "default",
        settings: Settings | None = None,
        clock: Clock = system_clock,
    ) -> None:
        super().__init__()
        self.name: str = check_hub_name(name)
        self.settings: Settings = settings or Settings()
        self._url = url
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
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> InstanceHandle[R]: ...
    @overload
    async def start(
        self,
        orchestrator: str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> InstanceHandle[Any]: ...
    async def start(
        self,
        orchestrator: Orchestrator[..., Any] | str,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> InstanceHandle[Any]:
        """Create an instance of ``orchestrator`` (a definition or its name) and return its handle.

        When this returns, the instance is durable. ``args`` and ``kwargs`` are the orchestrator's, without
        the context. ``instance_id`` defaults to a new one.

        Raises:
            InstanceExistsError: an instance of that id exists, whatever its status.
            UnknownFunctionError: this process knows orchestrators, but none of that name.
            PayloadError: an argument cannot be written as JSON or does not fit its annotation.
            ValueError: the instance id breaks a rule.
            BackendUnavailable: the store did not confirm in time; it may or may not have been started.
        """
        started = await self._connected().start(
            orchestrator, args, kwargs, instance_id=instance_id, version=version, tags=tags
        )
        return InstanceHandle(started, self._connected, None if isinstance(orchestrator, str) else orchestrator)

    def get(self, instance_id: str) -> InstanceHandle[Any]:
        """The handle of an instance; whether it exists shows when the handle is used."""
        return InstanceHandle(instance_id, self._connected)

    def query(
        self,
        *,
        status: RuntimeStatus | Sequence[RuntimeStatus] | None = None,
        name: str | None = None,
        id_prefix: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[InstanceStatus]:
        """Instances that match all given conditions, newest first, read in pages. Times need a time zone."""
        query = make_query(
            status=status,
            name=name,
            id_prefix=id_prefix,
            created_from=created_from,
            created_to=created_to,
            page_size=page_size,
        )
        return self._connected().query(query)

    @property
    def healthy(self) -> bool:
        """Whether the hub is connected and, if a worker runs here, it works and its store answers."""
        return self._client is not None and (self._worker is None or self._worker.healthy)
