"""Measures of turns, for an instrument: how long each waited and took, and what became of it.

Rule of this file: it is there only where an instrument is. The times are kept with the instance, so that an instance
that is dropped leaves nothing behind here.
"""

from __future__ import annotations

from time import perf_counter

from durable.backend import CommitOutcome
from durable.core.errors import NonDeterminismError
from durable.core.ids import is_entity
from durable.instrument import Instrument, Turn, TurnOutcome
from durable.worker.live import LiveInstance


class Measures:
    """Tells an instrument of turns and of replays."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument

    def ready(self, instance: LiveInstance) -> None:
        """There may be something to do for the instance."""
        instance.ready_at = instance.began_at = perf_counter()

    def begins(self, instance: LiveInstance) -> None:
        """There is, and its turn begins."""
        instance.began_at = perf_counter()

    def ended(self, instance: LiveInstance, outcome: CommitOutcome) -> None:
        """The store has answered to the turn's commit."""
        self._tell(instance, "committed" if outcome is CommitOutcome.COMMITTED else "conflict")

    def failed(self, instance: LiveInstance, error: BaseException) -> None:
        """The turn could not be run."""
        self._tell(instance, "nondeterminism" if isinstance(error, NonDeterminismError) else "error")

    def not_replayed(self, instance: LiveInstance, error: BaseException) -> None:
        """The replay since :meth:`ready` ended with an error: a turn that contradicts its history, or none."""
        if isinstance(error, NonDeterminismError):
            self._tell(instance, "nondeterminism")

    def replayed(self, instance: LiveInstance) -> None:
        """The instance was brought back to where its history ends; an entity is read, but has no code to run again."""
        state = instance.state
        if state.started is not None and instance.execution is not None and not is_entity(instance.instance_id):
            self._instrument.loaded(state.started, state.length, state.activities.values())

    def _tell(self, instance: LiveInstance, outcome: TurnOutcome) -> None:
        waited, took = instance.began_at - instance.ready_at, perf_counter() - instance.began_at
        record = instance.record
        self._instrument.turned(Turn(record.instance_id, record.name, outcome, waited, took, instance.state.length))
