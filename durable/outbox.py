"""The outbox: what leaves an instance with a committed turn - messages to others, and others to be started.

Rule of this file: a pure function of the turn's events and the state before each, so that whoever finds
the checkpoint after a crash sends exactly the same again. A message's id is the place of its event:
instance, execution, checkpoint, position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from durable.backend import InstanceRecord, Message, Start
from durable.core import events as ev
from durable.core.calls import call_of
from durable.core.errors import FailureDetails
from durable.core.ids import TRACEPARENT, child_execution_id, partition_of
from durable.core.state import InstanceState, RuntimeStatus


class Outgoing:
    """Collects what one checkpoint sends: feed it each event of SENDING before the state has taken it in."""

    def __init__(self, record: InstanceRecord, execution_id: str, seq: int, partition_count: int) -> None:
        self.record = record
        self.execution_id = execution_id
        self.messages: list[Message] = []
        self.starts: list[Start] = []
        self._place = f"{record.instance_id}/{execution_id}/{seq:08d}"
        self._count = partition_count
        self._position = 0

    def take(self, event: ev.HistoryEvent, position: int, state: InstanceState) -> None:
        """Note what the event at ``position`` (from 1), one of SENDING, sends; ``state`` is the instance before it."""
        self._position = position
        _SENDS[type(event)](self, event, state)

    def next_id(self) -> str:
        """The id of a message that the present event sends; the events that send several number them."""
        return f"{self._place}/{self._position:06d}"

    def send(
        self,
        to: str,
        event: ev.HistoryEvent,
        *,
        execution_id: str | None = None,
        sent_at: int | None = None,
        message_id: str | None = None,
    ) -> None:
        """Send ``event`` to an instance, or to one execution of it."""
        self.messages.append(self.message(to, event, execution_id, sent_at, message_id))

    def message(
        self,
        to: str,
        event: Any,
        execution_id: str | None = None,
        sent_at: int | None = None,
        message_id: str | None = None,
    ) -> Message:
        """A message, not sent."""
        sent_at = event.timestamp if sent_at is None else sent_at
        return Message(message_id or self.next_id(), to, partition_of(to, self._count), sent_at, event, execution_id)

    def start(self, record: InstanceRecord, otherwise: Message | None) -> None:
        """Have an instance created."""
        self.starts.append(Start(replace(record, partition=partition_of(record.instance_id, self._count)), otherwise))


def releases(message: Message, partition_count: int, now: int) -> Sequence[Message]:
    """What answers a message that nobody takes in any more: locks granted to the dead are given back."""
    event = message.event
    if not isinstance(event, ev.EntityLockGranted):
        return ()
    execution_id = message.execution_id or ""
    return [
        Message(
            f"{message.message_id}/release/{position:04d}",
            entity_id,
            partition_of(entity_id, partition_count),
            now,
            ev.EntityUnlockSent(
                now,
                event.task_id,
                entity_id,
                message.instance_id,
                execution_id,
                f"{message.message_id}/release/{position:04d}",
            ),
        )
        for position, entity_id in enumerate(event.lock_set)
    ]


# --- what each event sends -----------------------------------------------------------------------


def _start_child(out: Outgoing, event: ev.SubOrchestrationInstanceCreated, state: InstanceState) -> None:
    if call_of(event) in state.kept:
        return  # it was done before the execution was rewound
    child = InstanceRecord(
        event.instance_id,
        _child_execution(out, event.task_id),
        event.name,
        0,
        event.timestamp,
        event.timestamp,
        event.input,
        version=event.version,
        tags=event.tags,
        due_at=event.timestamp,
        parent=None if event.detached else _parent_of(out, event.task_id),
    )
    out.start(child, None if event.detached else _id_taken(out, event))


def _parent_of(out: Outgoing, task_id: int) -> ev.ParentInstance:
    me = out.record
    top = me.parent
    if top is None:
        caller = (me.tags or {}).get(TRACEPARENT)
        return ev.ParentInstance(me.instance_id, out.execution_id, task_id, me.instance_id, out.execution_id, caller)
    return ev.ParentInstance(
        me.instance_id, out.execution_id, task_id, top.root_instance_id, top.root_execution_id, top.traceparent
    )


def _root_of(out: Outgoing) -> tuple[str, ...] | None:
    """The top of the sender's tree; None where its place says enough."""
    me, top = out.record, out.record.parent
    if top is not None:
        return top.root_instance_id, top.root_execution_id or top.execution_id, top.traceparent or ""
    caller = (me.tags or {}).get(TRACEPARENT)
    return None if caller is None else (me.instance_id, out.execution_id, caller)


def _child_execution(out: Outgoing, task_id: int) -> str:
    """The first execution of the child that a call starts; it tells the child from a stranger of the same id."""
    return child_execution_id(out.record.instance_id, out.execution_id, task_id)


def _id_taken(out: Outgoing, event: ev.SubOrchestrationInstanceCreated) -> Message:
    failure = FailureDetails(
        "durable.core.errors.InstanceExistsError",
        f"an instance {event.instance_id!r} exists already and is not this call's; choose another instance id",
    )
    answer = ev.SubOrchestrationInstanceFailed(event.timestamp, event.task_id, failure)
    message_id = f"{out.next_id()}/{event.task_id:08d}"
    return out.message(out.record.instance_id, answer, out.execution_id, message_id=message_id)


def _send_event(out: Outgoing, event: ev.EventSent, state: InstanceState) -> None:
    raised = ev.EventRaised(event.timestamp, event.name, event.input, out.next_id(), root=_root_of(out))
    out.send(event.instance_id, raised)


def _close_child(out: Outgoing, event: ev.TaskCancelRequested, state: InstanceState) -> None:
    child = state.children.get(event.task_id)
    if child is None or (child.parent_close == "abandon" and not event.terminate):
        return
    closing: ev.HistoryEvent
    if event.terminate:
        reason = '"the parent orchestration has ended"'
        closing = ev.ExecutionTerminated(event.timestamp, reason, True, out.next_id())
    else:
        why = "the parent orchestration no longer waits for it"
        closing = ev.ExecutionCancelRequested(event.timestamp, why, message_id=out.next_id())
    out.send(child.instance_id, closing, execution_id=_child_execution(out, event.task_id))


def _addressed(out: Outgoing, event: Any) -> Any:
    """An event of a caller as it travels: with its message's id and the address for the answer."""
    return replace(
        event, caller_id=out.record.instance_id, caller_execution_id=out.execution_id, message_id=out.next_id()
    )


def _call_entity(out: Outgoing, event: ev.EntityOperationCalled, state: InstanceState) -> None:
    if event.message_id is None and call_of(event) not in state.kept:
        out.send(event.entity_id, replace(_addressed(out, event), at=None, root=_root_of(out)))


def _signal_entity(out: Outgoing, event: ev.EntityOperationSignaled, state: InstanceState) -> None:
    if event.message_id is None:
        out.send(event.entity_id, replace(event, message_id=out.next_id(), root=_root_of(out)))


def _request_lock(out: Outgoing, event: ev.EntityLockRequested, state: InstanceState) -> None:
    if event.message_id is None:
        asks = replace(event, message_id=out.next_id()) if event.caller_id else _addressed(out, event)
        out.send(event.lock_set[event.position], replace(asks, at=None))


def _unlock(out: Outgoing, event: ev.EntityUnlockSent, state: InstanceState) -> None:
    if event.message_id is None:
        out.send(event.entity_id, _addressed(out, event))


def _rewind_children(out: Outgoing, event: ev.ExecutionRewound, state: InstanceState) -> None:
    for number, task_id in enumerate(event.children):
        child = state.children[task_id]
        _start_child(out, child, state)  # it may be gone; where its id is a stranger's, this tells
        message_id = f"{out.next_id()}/{number:06d}"
        again = ev.ExecutionRewound(event.timestamp, reason=event.reason, message_id=message_id)
        execution_id = _child_execution(out, task_id)
        out.send(child.instance_id, again, execution_id=execution_id, message_id=message_id)


def _ask_again(out: Outgoing, event: ev.ExecutionForked, state: InstanceState) -> None:
    """A fork asks for what its origin had asked for and not yet heard of. What is copied is not sent again."""
    answered = {getattr(one, "task_id", 0) for one in event.events}
    for task_id, child in state.children.items():
        if task_id not in answered:
            _start_child(out, replace(child, timestamp=event.timestamp), state)
    for task_id, call in state.calls.items():
        if task_id not in answered:
            message_id = f"{out.next_id()}/{task_id:08d}"
            asked = replace(_addressed(out, call), timestamp=event.timestamp, message_id=message_id, at=None)
            out.send(call.entity_id, asked, message_id=message_id)


def _answer_caller(
    out: Outgoing,
    event: ev.EntityOperationCompleted | ev.EntityOperationFailed | ev.EntityLockGranted,
    state: InstanceState,
) -> None:
    if event.caller_id is not None:
        answer = replace(event, caller_id=None, caller_execution_id=None)
        out.send(event.caller_id, answer, execution_id=event.caller_execution_id)


def _continue(out: Outgoing, event: ev.ContinueAsNew, state: InstanceState) -> None:
    for number, kept in enumerate(event.events):
        message_id = f"{out.next_id()}/{number:06d}"
        again = replace(kept, message_id=message_id)
        out.send(out.record.instance_id, again, sent_at=kept.timestamp, message_id=message_id)


def _answer_parent(out: Outgoing, event: ev.ExecutionCompleted, state: InstanceState) -> None:
    parent = out.record.parent
    if parent is None:
        return
    answer: ev.HistoryEvent
    if event.status == RuntimeStatus.COMPLETED:
        answer = ev.SubOrchestrationInstanceCompleted(event.timestamp, parent.task_id, event.result or "null")
    else:
        failure = event.failure or FailureDetails(
            "durable.core.errors.OrchestrationTerminatedError", f"it was terminated: {event.result}"
        )
        answer = ev.SubOrchestrationInstanceFailed(event.timestamp, parent.task_id, failure)
    out.send(parent.instance_id, answer, execution_id=parent.execution_id)


_SENDS: dict[type[Any], Callable[[Outgoing, Any, InstanceState], None]] = {
    ev.SubOrchestrationInstanceCreated: _start_child,
    ev.EventSent: _send_event,
    ev.TaskCancelRequested: _close_child,
    ev.EntityOperationCalled: _call_entity,
    ev.EntityOperationSignaled: _signal_entity,
    ev.EntityLockRequested: _request_lock,
    ev.EntityUnlockSent: _unlock,
    ev.EntityOperationCompleted: _answer_caller,
    ev.EntityOperationFailed: _answer_caller,
    ev.EntityLockGranted: _answer_caller,
    ev.ContinueAsNew: _continue,
    ev.ExecutionRewound: _rewind_children,
    ev.ExecutionForked: _ask_again,
    ev.ExecutionCompleted: _answer_parent,
}

SENDING = frozenset(_SENDS)
"""The kinds of events that may send something."""

SENDING_WITHOUT_PARENT = SENDING - {ev.ExecutionCompleted}
"""Those of an instance whose end nobody is told of."""
