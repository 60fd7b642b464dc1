"""Catching up: an instance while its history is replayed, of which a rewind may have taken back a part."""

from __future__ import annotations

from dataclasses import dataclass, field

from durable.backend import Checkpoint, Commit
from durable.core.events import ExecutionRewound, HistoryEvent, TaskScheduled
from durable.core.rewinding import last_task, rewound_state
from durable.worker.live import LiveInstance


@dataclass(slots=True)
class Catching:
    """An instance while its history is replayed. ``events`` gathers those that count, where it was rewound.

    ``scheduled_at`` is how often the instance had been recovered when a task was scheduled, if it had been.
    """

    instance: LiveInstance
    events: list[HistoryEvent] | None = None
    scheduled_at: dict[int, int] = field(default_factory=dict)
    unsettled: list[Commit] = field(default_factory=list)

    def recall(self, page: list[Checkpoint]) -> list[Checkpoint]:
        """Take in the turns that the record shows, from which nothing follows any more; returned are the later ones."""
        shown = [checkpoint for checkpoint in page if checkpoint.rev <= self.instance.record.rev]
        for checkpoint in shown:
            if checkpoint.recoveries:
                self.note_recoveries(checkpoint)
        if shown:
            self.instance.recall([event for checkpoint in shown for event in checkpoint.events])
            self.instance.next_seq, self.instance.rev = shown[-1].seq + 1, shown[-1].rev
        return page[len(shown) :]

    def note_recoveries(self, checkpoint: Checkpoint) -> None:
        """Take down for the tasks that this turn scheduled how often the instance had been recovered."""
        for event in checkpoint.events:
            if type(event) is TaskScheduled:
                self.scheduled_at[event.task_id] = checkpoint.recoveries

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
