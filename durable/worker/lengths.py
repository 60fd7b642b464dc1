"""The length of histories: when it is worth a warning, and when it ends an instance.

Rule of this file: it only looks. The end is a turn like others (``core/closing.py``), so what is recorded does not
depend on the settings that a later worker has. Entities are left out: they begin a new execution by themselves.
"""

from __future__ import annotations

import logging
import sys

from durable.core.ids import is_entity
from durable.settings import Settings
from durable.worker.live import LiveInstance

_log = logging.getLogger("durable.worker")


class Lengths:
    """Compares the histories of one worker's instances with its settings.

    An orchestration's history may not have more events than ``limit``; from ``warning`` on, :meth:`grown` looks at it.
    """

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.max_history or sys.maxsize
        self.warning = settings.history_warning or sys.maxsize

    def grown(self, instance: LiveInstance, by: int) -> None:
        """Warn when the ``by`` events of the last turn took the history over the threshold, or one of its doublings."""
        state = instance.state
        length = state.length
        if self._step(length) == self._step(length - by):
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
            f". At {self.limit} events the instance fails" if self.limit < sys.maxsize else "",
        )

    def _step(self, length: int) -> int:
        """How often the threshold has been doubled up to this length, from 1; 0 below it."""
        return (length // self.warning).bit_length()
