"""Catching up: an instance while its history is replayed, of which a rewind may have taken back a part."""

from __future__ import annotations

from dataclasses import dataclass, field

from durable.backend import Commit
from durable.core.events import ExecutionRewound, HistoryEvent
from durable.core.rewinding import last_task, rewound_state
from durable.worker.live import LiveInstance


@dataclass(slots=True)
class Catching:
    """An instance while its history is replayed. ``events`` gathers those that count, where it was rewound."""

    instance: LiveInstance
    events: list[HistoryEvent] | None = None
    scheduled_at: dict[int, int] = field(default_factory=dict)
    unsettled: list[Commit] = field(default_factory=list)

    def go_back(self, rewound: ExecutionRewound) -> None:
        """Take back what a rewind does. Raises RewoundHistory when the events before were not gathered."""
        if self.events is None:
            raise RewoundHistory
        self.instance.run += 1
        self.instance.former_task = max(self.instance.former_task, last_task(self.events))
        self.instance.state = rewound_state(self.events, rewound.keep)
        del self.events[rewound.keep :]


class RewoundHistory(Exception):  # noqa: N818 - not an error: how the first pass ends
    """The history is to be read as a whole, as some of it does not count."""
