"""What user code traces in operations of entities nests below them, and what it puts on the current span is kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from durable import EntityId, OrchestrationContext, Registry, TaskHub
from durable.core.events import EntityStateSet
from durable.worker import entities as worker_entities
from tests.e2e.waiting import until
from tests.otlp_sink import Received, Sink
from tests.tracing.conftest import MakeHub
from tests.tracing.test_live import named
from tests.tracing.test_over_the_wire import ended, received

registry = Registry()
tracers: list[trace.Tracer] = []


@pytest.fixture(autouse=True)
def tracer(user_tracing: TracerProvider) -> None:
    """The tracer that the entity below uses."""
    tracers[:] = [user_tracing.get_tracer("user")]


def work(name: str) -> None:
    with tracers[0].start_as_current_span(name):
        pass


def traced(hub: TaskHub) -> TaskHub:
    hub.include(registry)
    return hub


@registry.entity
class Notes:
    def __init__(self) -> None:
        self.written: list[str] = []

    async def write(self, text: str) -> int:
        trace.get_current_span().set_attribute("length", len(text))
        work(f"writes {text}")
        await asyncio.to_thread(work, f"prints {text}")
        self.written.append(text)
        return len(self.written)

    def tear(self) -> None:
        trace.get_current_span().set_attribute("page", 3)
        work("tears")
        raise ValueError("it is bound")


@registry.orchestrator
async def writes(ctx: OrchestrationContext, text: str) -> int:
    number: int = await ctx.call_entity(EntityId("notes", "one"), "write", text)
    ctx.signal_entity(EntityId("notes", "one"), "write", f"{text} again")
    return number


def within(inner: Received, outer: Received) -> bool:
    """Whether a span is a child that lies in its parent's time."""
    same = (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)
    begins = outer.span.start_time_unix_nano <= inner.span.start_time_unix_nano
    return same and begins and inner.span.end_time_unix_nano <= outer.span.end_time_unix_nano


async def test_user_spans_nest_below_operations(sink: Sink, make_hub: MakeHub, store_url: str) -> None:
    hub = traced(make_hub(store_url))
    async with hub.worker():
        assert await (await hub.start(writes, "a", instance_id="author")).result(30) == 1
        await received(sink, ended("author"))
        await received(sink, lambda sink: sum(one.name == "entity:notes:write" for one in sink.spans) == 4)
    called, signaled = named(sink, "entity:notes:write", "SERVER"), named(sink, "entity:notes:write", "CONSUMER")
    assert called.trace_id == named(sink, "orchestration:writes", "SERVER").trace_id != signaled.trace_id
    for text, operation in (("a", called), ("a again", signaled)):
        assert operation.attributes["length"] == len(text)
        assert within(named(sink, f"writes {text}", "INTERNAL"), operation)
        assert within(named(sink, f"prints {text}", "INTERNAL"), operation)


async def test_an_operation_that_fails_keeps_what_it_put_on_its_span(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub())
    async with hub.worker():
        await hub.signal_entity(EntityId("notes", "one"), "tear")
        await received(sink, lambda sink: any(one.name == "entity:notes:tear" for one in sink.spans))
    torn = named(sink, "entity:notes:tear", "CONSUMER")
    assert (torn.attributes["page"], torn.span.status.message) == (3, "it is bound")
    assert within(named(sink, "tears", "INTERNAL"), torn)


async def test_a_signal_for_a_later_time_is_traced_when_it_is_done(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub())
    async with hub.worker():
        soon = datetime.now(UTC) + timedelta(milliseconds=50)
        await hub.signal_entity(EntityId("notes", "one"), "write", "late", signal_time=soon)
        await received(sink, lambda sink: any(one.name == "entity:notes:write" for one in sink.spans))
    done = named(sink, "entity:notes:write", "CONSUMER")
    assert done.attributes["length"] == 4
    assert within(named(sink, "writes late", "INTERNAL"), done)


async def test_what_a_batch_of_operations_keeps_is_bounded(
    sink: Sink, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_entities, "MAX_TRACES", 10)
    hub = traced(make_hub())
    async with hub.worker():
        await hub.signal_entity(EntityId("notes", "one"), "write", "much")
        await received(sink, lambda sink: any(one.name == "entity:notes:write" for one in sink.spans))
    assert "length" not in named(sink, "entity:notes:write", "CONSUMER").attributes


async def test_operations_that_are_not_sampled_record_nothing(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub(sample=0.0))
    async with hub.worker():
        await hub.signal_entity(EntityId("notes", "one"), "write", "a")
        history = await until(hub.get("@notes@one").history, bool)
    assert sink.spans == []
    assert {event.traces for event in history if isinstance(event, EntityStateSet)} == {None}
