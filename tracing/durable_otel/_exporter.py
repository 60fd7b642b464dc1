"""The exporting thread: takes committed turns, exports their spans, and goes on only when they were taken.

Rule of this file: an exporter blocks, fails and raises as it likes; what is not acknowledged is
exported again, the same. The event loop never waits for it.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic, sleep

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from durable_otel._pace import Pace
from durable_otel._pending import Pending, Turns
from durable_otel._projector import Projector, Reached
from durable_otel._spans import BATCH, export_acknowledged, exportable

_log = logging.getLogger("durable.otel")

_LINGER = 0.2
"""Seconds for which a batch that is not full waits for more."""
_FIRST_RETRY, _LAST_RETRY = 0.5, 30.0


class ExportThread:
    """One thread that exports through ``exporter``, at ``pace``."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        pending: Pending,
        projector: Projector,
        pace: Pace,
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._pending = pending
        self._projector = projector
        self._pace = pace
        self._hurries = False
        self._spans: list[ReadableSpan] = []
        self._unacknowledged: list[Reached] = []
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="durable-otel", daemon=True)
        self.exported = 0
        self.busy = False

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def hurry(self) -> None:
        """Export without pauses from here on."""
        self._hurries = True

    def close(self, timeout: float) -> bool:
        """Export what waits, for ``timeout`` seconds at most, and end; False when something was left. Blocks.

        A call of the exporter that hangs beyond that is left to end by itself.
        """
        self._deadline = monotonic() + timeout
        self._stopping.set()
        self._pending.close()
        self._thread.join(timeout + 0.1)
        done = not self._thread.is_alive() and not self._spans and self._pending.idle
        if not done:
            _log.warning("closing with spans that were not exported; they can be exported later from history")
        return done

    def _run(self) -> None:
        self._pace.begin()
        while True:
            self._pause()
            turns = self._pending.take(_LINGER if self._spans else None)
            if turns is None and not self._spans and self._pending.closed:
                return
            if self._stopping.is_set() and monotonic() > self._deadline:
                return  # nobody waits for it any more
            if turns is not None:
                self.busy = True
                self._take_up(turns)
            if (turns is None or len(self._spans) >= BATCH) and not self._ship():
                return
            self.busy = bool(self._spans)

    def _pause(self) -> None:
        """After some work, leave the interpreter to the others for a time that is in proportion."""
        if not self._hurries and (seconds := self._pace.rest()):
            self._stopping.wait(seconds)
            self._pace.rested()

    def _take_up(self, turns: Turns) -> None:
        try:
            spans, reached = self._projector.project(turns)
        except Exception:
            # A history that cannot be projected must not keep all others from being exported.
            _log.exception("instance %r cannot be traced", turns.key[0])
            return
        self._spans += [exportable(span, self._resource) for span in spans]
        if reached is not None:
            self._unacknowledged.append(reached)

    def _ship(self) -> bool:
        """Export all spans that are ready; False when it is time to end and they were not taken."""
        size, delay = BATCH, _FIRST_RETRY
        while self._spans:
            if self._export(size):
                size, delay = min(BATCH, size * 2), _FIRST_RETRY
                self._pause()
                continue
            if size == 1 and self._is_refused():
                continue
            if not self._may_try_again(delay):
                return False
            delay = _FIRST_RETRY if size > 1 else min(delay * 2, _LAST_RETRY)
            size = max(1, min(size, len(self._spans)) // 2)
        for reached in self._unacknowledged:
            self._projector.exported(reached)
        self._unacknowledged.clear()
        return True

    def _export(self, size: int, first: int = 0) -> bool:
        batch = self._spans[first : first + size]
        if not batch or not export_acknowledged(self._exporter, batch):
            return False
        del self._spans[first : first + size]
        self.exported += len(batch)
        return True

    def _is_refused(self) -> bool:
        """Leave out the first span if the receiver takes the next one, and then still not this one.

        Else one span that is not taken, whyever, would keep all others from being exported.
        """
        if not self._export(1, first=1) or self._export(1):
            return False
        span = self._spans.pop(0)
        _log.error("span %r of trace %032x is refused, and left out", span.name, span.context.trace_id)
        return True

    def _may_try_again(self, delay: float) -> bool:
        """Wait before the next try; False when it is time to end."""
        if not self._stopping.wait(delay):
            return True
        sleep(max(0.0, min(_FIRST_RETRY, self._deadline - monotonic())))
        return monotonic() < self._deadline
