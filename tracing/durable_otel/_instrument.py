"""The instrument: puts the parts together, and is told by the engine what happens.

Rule of this file: wiring only. What is told in the event loop is queued, and nothing else is done there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanContext, TracerProvider

from durable.backend import Backend, BackendUnavailable, Commit, InstanceRecord
from durable.clock import Clock
from durable.core.events import (
    EntityOperationCalled,
    EntityOperationSignaled,
    EventRaised,
    ExecutionStarted,
    TaskScheduled,
)
from durable.instrument import Instrument, Slots, Turn
from durable.projection import place_of_record
from durable.projection.attempts import attempt_key
from durable.projection.places import operation_ids, run_key, task_key
from durable_otel import _callers
from durable_otel._catching_up import CatchUp
from durable_otel._environment import exporter_of, is_disabled
from durable_otel._exporter import ExportThread
from durable_otel._live import AttemptSpan, OperationSpan, OrchestratorSpan, context_of, make_current
from durable_otel._meters import Meters
from durable_otel._metrics import HistoryMetrics
from durable_otel._pace import Pace
from durable_otel._pending import Pending
from durable_otel._projector import Projector, is_in_share, is_sampled
from durable_otel._settings import TraceSettings, sample_of
from durable_otel._spans import stable_resource
from durable_otel._store import timed
from durable_otel._worker_metrics import WorkerMetrics

_LOOK = 0.02


class OpenTelemetry(Instrument):
    """Traces, metrics and live context of a task hub; give it to ``TaskHub.instrument``, one for each hub.

    Without an ``exporter`` the standard variables say where spans go: ``OTEL_TRACES_EXPORTER``, ``OTEL_SERVICE_NAME``,
    ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_*``, ``OTEL_SDK_DISABLED``. Then, where the process has no tracer
    provider yet, one that exports to the same place is set, so that spans of your own come out, too.

    Raises ValueError for variables that make no sense.
    """

    def __init__(
        self,
        exporter: SpanExporter | None = None,
        *,
        resource: Resource | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        settings: TraceSettings | None = None,
    ) -> None:
        self.disabled = exporter is None and is_disabled()
        self.settings = settings or TraceSettings()
        if exporter is None and settings is None and not self.disabled:
            self.settings = replace(self.settings, sample=sample_of(os.environ))
        self._make_exporter: Callable[[], SpanExporter] = exporter_of if exporter is None else lambda: exporter
        self._owns_exporter = exporter is None
        self._exporter = None if self.disabled else self._make_exporter()
        self._resource = resource
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._hub = ""
        self._metrics: HistoryMetrics | None = None
        self._worker_metrics: WorkerMetrics | None = None
        self._pending = self._new_pending()
        self._thread: ExportThread | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- with the hub ------------------------------------------------------------------------------

    def store(self, hub: str, backend: Backend) -> Backend:
        """Time the store's operations, where somebody wants metrics."""
        if self._worker_metrics is None and self._wants_metrics():
            meters = Meters(self._meter_provider)
            self._metrics = HistoryMetrics(meters)
            self._worker_metrics = WorkerMetrics(meters, hub, lambda: self._pending.lag)
        return backend if self._worker_metrics is None else timed(backend, self._worker_metrics.asked)

    def _wants_metrics(self) -> bool:
        given = self._meter_provider is not None or isinstance(get_meter_provider(), SdkMeterProvider)
        return given and not self.disabled

    def _new_pending(self) -> Pending:
        return Pending(self.settings.max_pending, self.settings.max_bytes)

    async def opened(self, hub: str, backend: Backend, clock: Clock) -> None:
        """Begin to export. Raises RuntimeError when another hub uses it, and what the exporter's making raises."""
        if self.disabled:
            return
        if self._thread is not None:
            raise RuntimeError("an OpenTelemetry serves one hub; make another one for the next")
        self._hub = hub
        self._pending = self._new_pending()
        exporter = self._exporter = self._exporter or self._make_exporter()
        if self._owns_exporter:
            self._set_provider()
        self._tracer = trace.get_tracer("durable", tracer_provider=self._tracer_provider)
        projector = Projector(hub, self.settings, self._pending.leave_behind)
        pace = Pace(self.settings.share)
        thread = ExportThread(exporter, stable_resource(self._resource), self._pending, projector, pace)
        self._catch_up = CatchUp(backend, clock, self._pending, self.settings)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._catch_up.run(), name="durable-otel")]
        if self._worker_metrics is not None:
            self._tasks.append(loop.create_task(self._worker_metrics.run(backend), name="durable-otel-metrics"))
        self._thread = thread
        thread.start()

    async def closing(self) -> None:
        """Export what waits, within ``flush_timeout``."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        thread.hurry()
        deadline = monotonic() + self.settings.flush_timeout
        try:
            async with asyncio.timeout(self.settings.flush_timeout):
                while not self._pending.idle:
                    if not await self._catch_up.step():
                        await asyncio.sleep(_LOOK)
        except (TimeoutError, BackendUnavailable):
            pass  # what is left, the thread tells of
        await asyncio.to_thread(thread.close, max(0.0, deadline - monotonic()))
        if self._owns_exporter and self._exporter is not None:
            await asyncio.to_thread(self._exporter.shutdown)
            self._exporter = None

    def _set_provider(self) -> None:
        """Give a process that has none a tracer provider, for the spans of user code and of clients."""
        if self._tracer_provider is None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            provider = SdkTracerProvider(resource=self._resource)
            provider.add_span_processor(BatchSpanProcessor(self._make_exporter()))
            trace.set_tracer_provider(provider)

    # --- told by the engine ----------------------------------------------------------------------

    def gained(self, partitions: Collection[int]) -> None:
        if self._thread is not None:
            self._catch_up.gained(partitions)

    def committed(self, commits: Sequence[Commit]) -> None:
        if self._thread is None:
            return
        self._pending.add([commit.checkpoint for commit in commits])
        if self._metrics is not None:
            self._metrics.record(commits)

    @property
    def measures_turns(self) -> bool:
        return self._worker_metrics is not None

    def loaded(self, started: ExecutionStarted, replayed: int, outstanding: Collection[TaskScheduled]) -> None:
        if self._metrics is not None and self._worker_metrics is not None:
            self._metrics.loaded(started, outstanding)
            self._worker_metrics.replayed(started.name, replayed)

    def turned(self, turn: Turn) -> None:
        if self._worker_metrics is not None:
            self._worker_metrics.turned(turn)

    def working(self, slots: Slots | None) -> None:
        if self._worker_metrics is not None:
            self._worker_metrics.working(slots)

    def lost(self, partitions: Collection[int]) -> None:
        if self._worker_metrics is not None:
            self._worker_metrics.lost(partitions)

    def starting(self, record: InstanceRecord) -> AbstractContextManager[InstanceRecord]:
        if self._thread is None:
            return nullcontext(record)
        settings = self.settings
        return _callers.starting(self._tracer, self._hub, settings.trace, settings.baggage, record)

    def sending(
        self, instance_id: str, event: Any, receiver: InstanceRecord | None
    ) -> AbstractContextManager[EventRaised | EntityOperationSignaled]:
        if self._thread is None:
            return nullcontext(event)
        return _callers.sending(self._tracer, self._hub, self.settings.trace, instance_id, event, receiver)

    def attempt(
        self, record: InstanceRecord, scheduled: TaskScheduled, number: int, run: int = 0
    ) -> AttemptSpan | None:
        if self._thread is None:
            return None
        span = AttemptSpan(partial(self._attempt_context, record, scheduled.task_id, number, run))
        make_current(span, record.tags)
        return span

    def operation(
        self, record: InstanceRecord, event: EntityOperationCalled | EntityOperationSignaled
    ) -> OperationSpan | None:
        if self._thread is None:
            return None
        span = OperationSpan(partial(self._operation_context, record.instance_id, event))
        make_current(span, None)
        return span

    def orchestrator(self, started: ExecutionStarted, is_replaying: Callable[[], bool], run: Callable[[], int]) -> None:
        if self._thread is not None:
            at_start = self.settings.root_span == "at_start"
            own = lambda: self._span_context(started, run_key(0 if at_start else run()))  # noqa: E731
            make_current(OrchestratorSpan(own, is_replaying), started.tags)

    def _attempt_context(self, record: InstanceRecord, task_id: int, number: int, run: int) -> SpanContext:
        return self._span_context(record, attempt_key(task_key(task_id, run), number))

    def _operation_context(self, entity_id: str, event: EntityOperationCalled | EntityOperationSignaled) -> SpanContext:
        ids = operation_ids(self._hub, self.settings.trace, entity_id, event)
        return context_of(*ids, sampled=is_in_share(ids[0], self.settings.sample))

    def _span_context(self, one: InstanceRecord | ExecutionStarted, key: str) -> SpanContext:
        """The context of the span ``key`` of an execution; computed when it is wanted."""
        place = place_of_record(self._hub, self.settings.trace, one)
        return context_of(place.trace_id, place.span_id(key), sampled=is_sampled(place, self.settings.sample))
