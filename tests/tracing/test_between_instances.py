"""Traces that cross instances: entities, events and signals between them, generations, detached instances."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider

from durable import EntityId, OrchestrationContext, Registry
from tests.otlp_sink import Received, Sink
from tests.tracing.conftest import MakeHub
from tests.tracing.test_over_the_wire import check_whole, ended, received

registry = Registry()


@registry.entity
class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def refuse(self) -> None:
        raise ValueError("no")


@registry.orchestrator
async def listener(ctx: OrchestrationContext) -> int:
    return await ctx.wait_for_external_event("go", int)


@registry.orchestrator
async def inner(ctx: OrchestrationContext, to: str) -> int:
    counter = EntityId("counter", "one")
    ctx.signal_entity(counter, "add", 1)
    total: int = await ctx.call_entity(counter, "add", 2)
    ctx.send_event(to, "go", total)
    return total


@registry.orchestrator
async def outer(ctx: OrchestrationContext, to: str) -> int:
    return await inner(to)


@registry.orchestrator
async def countdown(ctx: OrchestrationContext, left: int) -> int:
    if left:
        ctx.continue_as_new(left - 1)
    return left


@registry.orchestrator
async def launcher(ctx: OrchestrationContext) -> str:
    return ctx.start_orchestration(countdown, 0, instance_id="launched")


def all_named(sink: Sink, name: str, kind: str) -> list[Received]:
    found = [one for one in sink.distinct().values() if (one.name, one.kind) == (name, kind)]
    return sorted(found, key=lambda one: one.span.start_time_unix_nano)


async def test_entities_and_events_lead_back_to_who_sent_them(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub()
    hub.include(registry)
    async with hub.worker():
        listening = await hub.start(listener, instance_id="listens")
        await (await hub.start(outer, "listens", instance_id="outer")).result()
        await listening.result()
        await received(sink, ended("listens"))
        await received(sink, ended("outer"))
        await received(sink, lambda sink: sum(one.name == "entity:counter:add" for one in sink.spans) == 4)
    (called,) = all_named(sink, "entity:counter:add", "CLIENT")
    (served,) = all_named(sink, "entity:counter:add", "SERVER")
    (signaled,) = all_named(sink, "entity:counter:add", "PRODUCER")
    (consumed,) = all_named(sink, "entity:counter:add", "CONSUMER")
    (sent,) = all_named(sink, "orchestration_event:go", "PRODUCER")
    (arrived,) = all_named(sink, "orchestration_event:go", "CONSUMER")
    assert (served.parent_id, served.trace_id) == (called.span_id, called.trace_id)
    assert [link[:2] for link in consumed.links] == [(signaled.trace_id, signaled.span_id)]
    assert [link[:2] for link in signaled.links] == [(consumed.trace_id, consumed.span_id)]
    assert [link[:2] for link in arrived.links] == [(sent.trace_id, sent.span_id)]
    assert consumed.trace_id not in (signaled.trace_id, arrived.trace_id)
    check_whole([one for one in sink.distinct().values() if one.trace_id == called.trace_id])


async def test_a_signal_of_a_client_and_its_operation_link_both_ways(
    sink: Sink, make_hub: MakeHub, user_tracing: TracerProvider
) -> None:
    hub = make_hub(provider=user_tracing)
    hub.include(registry)
    async with hub.worker():
        await hub.signal_entity(EntityId("counter", "one"), "add", 1)
        await received(sink, lambda sink: sum(one.name == "entity:counter:add" for one in sink.spans) == 2)
    (sent,) = all_named(sink, "entity:counter:add", "PRODUCER")
    (done,) = all_named(sink, "entity:counter:add", "CONSUMER")
    assert [link[:2] for link in sent.links] == [(done.trace_id, done.span_id)]
    assert [link[:2] for link in done.links] == [(sent.trace_id, sent.span_id)]


async def test_an_event_of_a_client_and_its_instance_link_both_ways(
    sink: Sink, make_hub: MakeHub, user_tracing: TracerProvider
) -> None:
    hub = make_hub(provider=user_tracing)
    hub.include(registry)
    async with hub.worker():
        listening = await hub.start(listener, instance_id="listens")
        await listening.raise_event("go", 1)
        await listening.result()
        await received(sink, ended("listens"))
        await received(sink, lambda sink: sum(one.name == "orchestration_event:go" for one in sink.spans) == 2)
    (raised,) = all_named(sink, "orchestration_event:go", "PRODUCER")
    (arrived,) = all_named(sink, "orchestration_event:go", "CONSUMER")
    (own,) = all_named(sink, "orchestration:listener", "SERVER")
    assert [link[:2] for link in raised.links] == [(own.trace_id, own.span_id)]
    assert [link[:2] for link in arrived.links] == [(raised.trace_id, raised.span_id)]


async def test_generations_are_traces_that_link_to_each_other(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub()
    hub.include(registry)
    async with hub.worker():
        await (await hub.start(countdown, 2, instance_id="down")).result()
        await received(sink, lambda sink: len(all_named(sink, "orchestration:countdown", "SERVER")) == 3)
    first, second, third = all_named(sink, "orchestration:countdown", "SERVER")
    assert len({one.trace_id for one in (first, second, third)}) == 3
    assert [(one.trace_id, one.span_id) for one in (second, third)] == [
        link[:2] for one in (first, second) for link in one.links if link[2]["durable.link"] == "continued_as"
    ]
    assert [(one.trace_id, one.span_id) for one in (first, second)] == [
        link[:2] for one in (second, third) for link in one.links if link[2]["durable.link"] == "continued_from"
    ]
    assert third.attributes["durable.generation"] == 2


async def test_what_is_started_and_left_alone_has_a_trace_of_its_own(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub()
    hub.include(registry)
    async with hub.worker():
        await (await hub.start(launcher, instance_id="launcher")).result()
        await hub.get("launched").result()
        await received(sink, ended("launched"))
        await received(sink, ended("launcher"))
    (started,) = all_named(sink, "create_orchestration:countdown", "PRODUCER")
    (own,) = all_named(sink, "orchestration:countdown", "SERVER")
    assert [link[:2] for link in started.links] == [(own.trace_id, own.span_id)]
    assert own.trace_id != started.trace_id
