"""Executions: the code that runs an instance's turns, made from its start event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

from durable.core.context import OrchestrationContext
from durable.core.errors import VersionMismatchError
from durable.core.events import ExecutionStarted, HistoryEvent
from durable.core.ids import EntityId, is_entity
from durable.core.replay import Begin, Orchestration
from durable.core.turns import split_turns
from durable.core.versions import VersionFailure, matches
from durable.instrument import Instrument
from durable.registry import BUILT_IN, Registry
from durable.settings import Settings
from durable.worker.entities import EntityExecution, LiveEntity
from durable.worker.live import Execution, LiveInstance
from durable.worker.services import WorkerServices

Run: TypeAlias = Callable[[], int]


class Executions:
    """Makes executions from the definitions of a registry."""

    def __init__(self, registry: Registry, settings: Settings, instrument: Instrument | None = None) -> None:
        self._instrument = instrument
        self._registry = registry
        self._settings = settings
        self._services = WorkerServices(registry)

    def begin(self, started: ExecutionStarted, version: str | None, run: Run = lambda: 0) -> Execution:
        """The execution that begins with ``started``; no turn has run yet. ``version`` is the instance's.

        ``run`` gives how often it was rewound; it is asked when the code runs.

        Raises:
            UnknownFunctionError: its orchestrator or entity is not registered here.
            VersionMismatchError: this worker does not run its version.
        """
        if is_entity(started.instance_id):
            entity_id = EntityId.parse(started.instance_id)
            entity = self._registry.find_entity(entity_id.name)
            return EntityExecution(entity_id, entity, self._registry, self._instrument)
        definition = self._registry.find_orchestrator(started.name)
        settings = self._settings
        if started.name.startswith(BUILT_IN) or matches(settings.version_match, settings.version, version):
            begin: Begin = definition.begin
            if self._instrument is not None:
                begin = partial(_traced, self._instrument, started, run, begin)
            return Orchestration(started, begin, self._services)
        mismatch = VersionMismatchError(
            f"instance {started.instance_id!r} of orchestrator {started.name!r} has version {version!r}; this "
            f"worker has version {settings.version!r} and runs {settings.version_match.value}"
        )
        if settings.version_failure is VersionFailure.REJECT:
            raise mismatch
        return Orchestration(started, partial(_fail, mismatch), self._services)

    def replay(self, execution: Execution, events: Iterable[HistoryEvent]) -> Iterator[None]:
        """Run the recorded turns of a checkpoint again; pauses after each event. Entities have nothing to replay."""
        if isinstance(execution, Orchestration):
            yield from execution.replay(split_turns(events))


async def _traced(
    instrument: Instrument,
    started: ExecutionStarted,
    run: Run,
    begin: Begin,
    context: OrchestrationContext,
    payload: str,
) -> Any:
    """An orchestrator's code in a trace context."""
    instrument.orchestrator(started, lambda: context.is_replaying, run)
    return await begin(context, payload)


async def _fail(error: Exception, context: OrchestrationContext, payload: str) -> None:
    """The code of an instance that is not to be run."""
    raise error


def live_class(instance_id: str) -> type[LiveInstance]:
    """What an instance of that id is in memory."""
    return LiveEntity if is_entity(instance_id) else LiveInstance
