"""The length of histories: when it is worth a warning, and when it ends an instance.

Rule of this file: it only looks. The end is a turn like others (``core/closing.py``), so what is recorded does not
depend on the settings that a later worker has. Entities are left out: they begin a new execution by themselves.
"""

from __future__ import annotations

import logging

from durable.core.ids import is_entity
from durable.settings import Settings
from durable.worker.live import LiveInstance

_log = logging.getLogger("durable.worker")


class Lengths:
    """Compares the histories of one worker's instances with its settings."""

    def __init__(self, settings: Settings) -> None:
        self._warning = settings.history_warning
        self._most = settings.max_history

    def limit_reached(self, instance: LiveInstance) -> int | None:
        """The limit, if the history of an orchestration has grown to it; else None."""
        if not self._most or instance.state.length < self._most or is_entity(instance.instance_id):
            return None
        return self._most

    def grown(self, instance: LiveInstance, by: int) -> None:
        """Warn when the ``by`` events of the last turn took the history over the threshold, or one of its doublings."""
        state = instance.state
        length = state.length
        if not self._warning or length < self._warning or self._step(length) == self._step(length - by):
            return
        if state.status.is_terminal or state.continued is not None or is_entity(instance.instance_id):
            return
        _log.warning(
            "the history of instance %r (orchestrator %r, execution %s) has %d events and is replayed as a whole "
            "whenever the instance comes back to memory; call ctx.continue_as_new from time to time, or divide the "
            "work among sub-orchestrations%s",
            instance.instance_id,
            instance.record.name,
            instance.record.execution_id,
            length,
            f". At {self._most} events the instance fails" if self._most else "",
        )

    def _step(self, length: int) -> int:
        """How often the threshold has been doubled up to this length, from 1; 0 below it."""
        return (length // self._warning).bit_length()
