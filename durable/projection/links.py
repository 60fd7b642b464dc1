"""Links between traces: from who tells to who is told, and back.

Rule of this file: a link is made where the other span's ids follow from what this history holds. They are a hash, so
the other span need not be there yet.
"""

from __future__ import annotations

from dataclasses import replace

from durable.core import events as ev
from durable.core.ids import child_execution_id
from durable.projection.ids import TraceMode, parse_traceparent, span_id
from durable.projection.places import ROOT, Place, operation_ids, trace_of_root
from durable.projection.spans import SpanLink


def links_ahead(
    place: Place,
    event: ev.EventSent | ev.EntityOperationSignaled | ev.SubOrchestrationInstanceCreated,
    seq: int,
    position: int,
) -> tuple[SpanLink, ...]:
    """Who is told by the event at ``position`` of the turn ``seq``, and is not waited for; nothing where that is open.

    Which execution takes in an external event, only its own history knows.
    """
    if isinstance(event, ev.SubOrchestrationInstanceCreated):
        return (_link_to_started(place, event),)
    if isinstance(event, ev.EntityOperationSignaled):
        message_id = f"{place.instance_id}/{place.execution_id}/{seq:08d}/{position:06d}"
        sent = replace(event, message_id=message_id)
        return (link_to_operation(place.hub, place.mode, event.entity_id, sent),)
    return ()


def link_to_operation(hub: str, mode: TraceMode, entity_id: str, event: ev.EntityOperationSignaled) -> SpanLink:
    """A link to the operation that a signal, as it travels, asks for."""
    return SpanLink(*operation_ids(hub, mode, entity_id, event), {"durable.link": "signals"})


def _link_to_started(place: Place, event: ev.SubOrchestrationInstanceCreated) -> SpanLink:
    """A link to the first execution of an instance that was started and is not waited for."""
    execution = child_execution_id(place.instance_id, place.execution_id, event.task_id)
    trace, _ = trace_of_root(place.hub, place.mode, event.instance_id, execution, None)
    return SpanLink(trace, span_id(place.hub, event.instance_id, execution, ROOT), {"durable.link": "starts"})


def signal_links(place: Place, event: ev.EntityOperationSignaled | ev.EventRaised) -> tuple[SpanLink, ...]:
    """Who sent a signal or an external event, where that is known: a client's span, or that of an orchestration."""
    what = {"durable.link": "signaled_by" if isinstance(event, ev.EntityOperationSignaled) else "raised_by"}
    client = parse_traceparent(event.traceparent)
    if client is not None:
        return (SpanLink(client[0], client[1], what),)
    sender = _sender_link(place.hub, place.mode, event.message_id, event.root)
    return () if sender is None else (SpanLink(sender.trace_id, sender.span_id, what),)


def _sender_link(hub: str, mode: TraceMode, message_id: str | None, root: tuple[str, ...] | None) -> SpanLink | None:
    """The span that sent a message, by the message's id; None when no orchestration sent it.

    ``root`` is the top of the sender's tree: instance, execution, traceparent or "". None: it is the sender itself.
    """
    parts = (message_id or "").split("/")
    if len(parts) != 4 or parts[0].startswith("@") or not (parts[2] + parts[3]).isdecimal():
        return None
    instance_id, execution_id, seq, position = parts
    top_instance, top_execution, caller = root or (instance_id, execution_id, "")
    trace, _ = trace_of_root(hub, mode, top_instance, top_execution, caller or None)
    return SpanLink(trace, span_id(hub, instance_id, execution_id, f"sent:{int(seq)}/{int(position)}"))
