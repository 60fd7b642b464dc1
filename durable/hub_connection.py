"""The hub's connection: one backend, one client and at most one worker, for all who use the hub in this process.

Rule of this file: who opens, closes; nothing here knows what is done with an instance.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Self

from durable.backend import Backend, BackendUnavailable, CommitOutcome, Hint, InstanceRecord, Message
from durable.backend_url import create_backend
from durable.client import Client
from durable.clock import Clock, system_clock
from durable.core.errors import DurableError
from durable.core.ids import check_hub_name
from durable.entity_client import CALL, call_entity
from durable.environment import hub_location
from durable.health import HubHealth, WorkerStatus, check_health, list_workers
from durable.httpcall.activity import HttpCaller
from durable.httpcall.values import ACTIVITY_NAME
from durable.instrument import Instrument
from durable.registry import Registry
from durable.serving import stop_signals, wait_until
from durable.settings import Settings
from durable.waiting import Waiters
from durable.worker.worker import Worker

_log = logging.getLogger("durable.hub")


class HubConnection(Registry):
    """What of a task hub is about being connected; see :class:`durable.hub.TaskHub`."""

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
        self._instrument: Instrument | None = None
        self._background: list[asyncio.Task[None]] = []

    def instrument(self, instrument: Instrument) -> None:
        """Have ``instrument`` told of what happens here, as ``durable_otel.OpenTelemetry`` wants to be.

        Raises RuntimeError when the hub is connected already, or has an instrument.
        """
        if self._users or self._instrument is not None:
            raise RuntimeError(f"task hub {self.name!r} takes one instrument, before it is connected")
        self._instrument = instrument

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
        definitions whose annotations cannot be used, TransactionsNotSupportedError for transactional activities on a
        store without transactions, UnknownFunctionError for a queue that is not registered, QueuesNotSupportedError for
        one on a store without queues, RuntimeError when the hub has a worker here already, ValueError for the setting
        ``partitions``, which is the hub's.
        """
        if "partitions" in settings:
            raise ValueError("setting partitions belongs to the hub, not to a worker: TaskHub(settings=Settings(...))")
        chosen = replace(self.settings, **settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self)
            if self._worker is not None:
                raise RuntimeError(f"task hub {self.name!r} has a worker in this process already")
            assert self._backend is not None
            changed = self._connected().waiters.committed
            worker = Worker(self._backend, self._partition_count, self, chosen, self._clock, changed, self._instrument)
            self._worker = worker
            try:
                await worker.start()
                self._tell_slots(worker)
                yield self
            finally:
                self._tell_slots(None)
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

    def _tell_slots(self, worker: Worker | None) -> None:
        if self._instrument is not None:
            self._instrument.working(None if worker is None else worker.slots)

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
        if self._instrument is not None:
            backend = self._instrument.store(self.name, backend)
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
            instrument=self._instrument,
        )
        if self._instrument is not None:
            await self._instrument.opened(self.name, backend, self._clock)
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(self._watch(backend), name="durable-watch"),
            loop.create_task(waiters.run(), name="durable-waiters"),
        ]

    async def _close(self) -> None:
        assert self._backend is not None
        if self._instrument is not None:
            await self._instrument.closing()
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
                if self._client is not None and hint.queue is None:
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

    # --- looking at the hub --------------------------------------------------------------------

    async def health(self) -> HubHealth:
        """How the hub stands here: asks the store, for two seconds at most, and the worker. Never raises for it."""
        return await check_health(self.name, self._backend, self._worker, self._clock)

    async def workers(self) -> list[WorkerStatus]:
        """The workers of this hub in all processes, by id. Raises DurableError, BackendUnavailable."""
        self._connected()
        assert self._backend is not None
        return await list_workers(self._backend, self._clock)
