"""Rewinding an instance in memory: what it is given to go on from before its first failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from durable.backend import InstanceRecord, Message
from durable.core.events import ExecutionRewound, HistoryEvent, SubOrchestrationInstanceCompleted
from durable.core.ids import partition_of
from durable.core.rewinding import redelivered, rewind_point, rewound_state
from durable.worker.live import Item, LiveInstance


def go_back(instance: LiveInstance, rewind: Message, events: Sequence[HistoryEvent]) -> list[Item]:
    """Set the state of ``instance`` back, and return its mailbox: the request, and what arrives again."""
    assert isinstance(rewind.event, ExecutionRewound)
    keep = rewind_point(events)
    again = redelivered(events, keep)
    instance.state = rewound_state(events, keep)
    answered = {getattr(event, "task_id", 0) for event in again} | instance.state.answers.keys()
    children = tuple(task_id for task_id in instance.state.children if task_id not in answered)
    return [replace(rewind, event=replace(rewind.event, keep=keep, children=children)), *again]


def answer_again(record: InstanceRecord, rewind: Message, partition_count: int) -> list[Message]:
    """What a child that has ended well tells its rewound parent: that one had ended before it heard."""
    parent = record.parent
    if parent is None:
        return []
    answer = SubOrchestrationInstanceCompleted(rewind.sent_at, parent.task_id, record.output or "null")
    partition = partition_of(parent.instance_id, partition_count)
    message_id = f"{rewind.message_id}/answer"
    return [Message(message_id, parent.instance_id, partition, rewind.sent_at, answer, parent.execution_id)]
