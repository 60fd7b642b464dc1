"""What user code traces by itself nests below the instance's spans, and what it puts on the current span is kept."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from durable import OrchestrationContext, OrchestrationFailedError, Registry, TaskHub
from durable.core.events import ExecutionStarted, TaskCompleted
from durable_otel._live import MAX_ENTRIES, AttemptSpan
from tests.otlp_sink import Received, Sink
from tests.tracing.conftest import MakeHub, unsampled_caller
from tests.tracing.test_between_instances import all_named
from tests.tracing.test_over_the_wire import ended, received

registry = Registry()
tracers: list[trace.Tracer] = []


@pytest.fixture(autouse=True)
def tracer(user_tracing: TracerProvider) -> trace.Tracer:
    """The tracer that the activities below use."""
    tracers[:] = [user_tracing.get_tracer("user")]
    return tracers[0]


def work(name: str) -> None:
    with tracers[0].start_as_current_span(name):
        pass


@registry.activity
async def in_the_loop() -> str | None:
    work("in the loop")
    await asyncio.to_thread(work, "in a thread of asyncio")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, work, "in a pool").result()
    return str(baggage.get_baggage("tenant"))


@registry.activity
def in_a_thread() -> None:
    work("in a thread")
    span = trace.get_current_span()
    span.set_attribute("order", 7)
    span.set_attributes({"sizes": ["s", "m"]})
    span.add_event("charged", {"amount": 3})
    span.record_exception(ValueError("handled"))
    span.set_status(StatusCode.ERROR, "half done")


@registry.orchestrator
async def nest(ctx: OrchestrationContext) -> str | None:
    work("first step")
    found = await in_the_loop()
    work("second step")
    await in_a_thread()
    work("third step")
    return found


@registry.orchestrator
async def listens(ctx: OrchestrationContext) -> Any:
    work("before the event")
    return await ctx.wait_for_external_event("go")


def named(sink: Sink, name: str, kind: str) -> Received:
    (found,) = [one for one in sink.distinct().values() if (one.name, one.kind) == (name, kind)]
    return found


def traced(hub: TaskHub) -> TaskHub:
    hub.include(registry)
    return hub


async def test_user_spans_nest_below_the_attempt(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub())
    async with hub.worker():
        await (await hub.start(nest, instance_id="nest")).result()
        await received(sink, ended("nest"))
    async_attempt = named(sink, "activity:in_the_loop", "SERVER")
    for name in ("in the loop", "in a thread of asyncio", "in a pool"):
        assert named(sink, name, "INTERNAL").parent_id == async_attempt.span_id
    assert named(sink, "in a thread", "INTERNAL").parent_id == named(sink, "activity:in_a_thread", "SERVER").span_id
    top = named(sink, "orchestration:nest", "SERVER")
    for name in ("first step", "second step", "third step"):
        assert named(sink, name, "INTERNAL").parent_id == top.span_id
    assert len({one.trace_id for one in sink.spans}) == 1


async def test_what_is_put_on_the_current_span_is_kept(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub())
    async with hub.worker():
        handle = await hub.start(nest, instance_id="kept")
        await handle.result()
        await received(sink, ended("kept"))
        history = await handle.history()
    attempt = named(sink, "activity:in_a_thread", "SERVER")
    assert (attempt.attributes["order"], attempt.attributes["sizes"]) == (7, ["s", "m"])
    assert [event.name for event in attempt.span.events] == ["charged", "exception"]
    assert attempt.span.status.message == "half done"
    recorded = [event.trace for event in history if isinstance(event, TaskCompleted)]
    assert [text is not None for text in recorded] == [False, True]


async def test_spans_of_orchestrator_code_come_once_however_often_it_replays(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub())
    async with hub.worker(cache_instances=1):
        handles = [await hub.start(listens, instance_id=f"replays-{n}") for n in range(4)]
        for handle in handles:
            await handle.raise_event("other")  # wakes it, so that another one leaves memory
        for handle in handles:
            await handle.raise_event("go", 1)
            assert await handle.result() == 1
            await received(sink, ended(handle.instance_id))
    assert len([one for one in sink.spans if one.name == "before the event"]) == 4


async def test_a_call_and_its_instance_link_both_ways(
    sink: Sink, make_hub: MakeHub, tracer: trace.Tracer, user_tracing: TracerProvider
) -> None:
    hub = traced(make_hub(provider=user_tracing))
    async with hub.worker():
        with tracer.start_as_current_span("POST /orders"):
            handle = await hub.start(listens, instance_id="linked")
            await handle.raise_event("go", 5)
        assert await handle.result() == 5
        await received(sink, ended("linked"))
    request = named(sink, "POST /orders", "INTERNAL")
    created = named(sink, "create_orchestration:listens", "PRODUCER")
    own = named(sink, "orchestration:listens", "SERVER")
    assert created.parent_id == request.span_id
    assert (own.trace_id != request.trace_id, own.parent_id) == (True, "")
    assert [link[:2] for link in created.links] == [(own.trace_id, own.span_id)]
    assert [link[:2] for link in own.links] == [(created.trace_id, created.span_id)]
    raised = named(sink, "orchestration_event:go", "PRODUCER")
    arrived = named(sink, "orchestration_event:go", "CONSUMER")
    assert [link[:2] for link in arrived.links] == [(raised.trace_id, raised.span_id)]


async def test_a_joined_instance_is_below_the_call(
    sink: Sink, make_hub: MakeHub, tracer: trace.Tracer, user_tracing: TracerProvider
) -> None:
    hub = traced(make_hub(provider=user_tracing, trace="join"))
    async with hub.worker():
        with tracer.start_as_current_span("POST /orders"):
            handle = await hub.start(nest, instance_id="joined")
        await handle.result()
        await received(sink, ended("joined"))
    created = named(sink, "create_orchestration:nest", "PRODUCER")
    assert named(sink, "orchestration:nest", "SERVER").parent_id == created.span_id
    assert len({one.trace_id for one in sink.spans}) == 1


async def test_baggage_goes_along_where_it_is_allowed(sink: Sink, make_hub: MakeHub, tracer: trace.Tracer) -> None:
    hub = traced(make_hub(baggage=frozenset({"tenant"})))
    token = context.attach(baggage.set_baggage("secret", "x", baggage.set_baggage("tenant", "acme")))
    try:
        async with hub.worker():
            handle = await hub.start(nest, instance_id="baggage")
            assert await handle.result() == "acme"
            begun = (await handle.history())[0]
    finally:
        context.detach(token)
    assert isinstance(begun, ExecutionStarted)
    assert (begun.tags or {})["durable.baggage"] == "tenant=acme"


async def test_an_attempt_that_is_not_sampled_records_nothing(sink: Sink, make_hub: MakeHub) -> None:
    hub = traced(make_hub(sample=0.0, export_failed=False))
    async with hub.worker():
        with unsampled_caller():
            handle = await hub.start(nest)
        await handle.result()
        history = await handle.history()
    assert sink.spans == []
    assert {event.trace for event in history if isinstance(event, TaskCompleted)} == {None}


async def test_user_spans_nest_below_attempts_from_a_queue(sink: Sink, make_hub: MakeHub, store_url: str) -> None:
    hub = traced(make_hub(store_url))
    hub.queue("mail")
    names = [hub.activity(name=f"queued {fn.name}", queue="mail")(fn.fn).name for fn in (in_the_loop, in_a_thread)]

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        for name in names:
            await ctx.call_activity(name)

    async with hub.worker():
        handle = await hub.start(main, instance_id="queued")
        await handle.result(30)
        await received(sink, ended("queued"))
        history = await handle.history()
    async_attempt = named(sink, "activity:queued in_the_loop", "SERVER")
    for name in ("in the loop", "in a thread of asyncio", "in a pool"):
        assert named(sink, name, "INTERNAL").parent_id == async_attempt.span_id
    attempt = named(sink, "activity:queued in_a_thread", "SERVER")
    assert named(sink, "in a thread", "INTERNAL").parent_id == attempt.span_id
    assert (attempt.attributes["order"], attempt.attributes["sizes"]) == (7, ["s", "m"])
    assert [event.name for event in attempt.span.events] == ["charged", "exception"]
    assert len({one.trace_id for one in sink.spans}) == 1
    recorded = [event.trace for event in history if isinstance(event, TaskCompleted)]
    assert [text is not None for text in recorded] == [False, True]


def failing_once(hub: TaskHub, tries: Iterator[int]) -> TaskHub:
    """A hub with an orchestrator whose first step fails the first time."""

    @hub.activity
    async def fails_once() -> None:
        number = next(tries)
        work(f"try {number}")
        trace.get_current_span().set_attribute("try", number)
        if number == 1:
            raise ConnectionError("no")

    @hub.activity
    async def last() -> None:
        work("last")

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await fails_once()
        work("after the rewind")
        await ctx.wait_for_external_event("go")
        work("after the restart")
        await last()

    return hub


async def test_what_runs_after_a_rewind_nests_below_the_new_run(sink: Sink, make_hub: MakeHub, store_url: str) -> None:
    tries = count(1)
    before, after = (failing_once(make_hub(store_url), tries) for _ in range(2))
    async with before.worker():
        handle = await before.start("main", instance_id="back")
        with pytest.raises(OrchestrationFailedError):
            await handle.result(30)
        await handle.rewind("again")
        await received(sink, lambda sink: any(one.name == "after the rewind" for one in sink.spans))
    async with after.worker():
        handle = after.get("back")
        await handle.raise_event("go")
        await handle.result(30)
        await received(sink, lambda sink: len(all_named(sink, "orchestration:main", "SERVER")) == 2)
    second_run = all_named(sink, "orchestration:main", "SERVER")[1]
    first_try, second_try = all_named(sink, "activity:fails_once", "SERVER")
    assert [one.attributes["try"] for one in (first_try, second_try)] == [1, 2]
    assert {one.name: one.parent_id for one in sink.spans if one.scope == "user"} == {
        "try 1": first_try.span_id,
        "try 2": second_try.span_id,
        "after the rewind": second_run.span_id,
        "after the restart": second_run.span_id,
        "last": named(sink, "activity:last", "SERVER").span_id,
    }


def attempt() -> AttemptSpan:
    return AttemptSpan(lambda: SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))


@pytest.mark.parametrize(
    "put",
    [
        lambda span, n: span.set_attribute(f"key {n}", "x" * 10_000),
        lambda span, n: span.add_event("x", {"text": "x" * 10_000}),
        lambda span, n: span.add_link(SpanContext(1, n + 1, is_remote=True), {"text": "x" * 10_000}),
    ],
    ids=["attributes", "events", "links"],
)
def test_an_attempt_keeps_a_bounded_part(put: Callable[[AttemptSpan, int], None]) -> None:
    span = attempt()
    for number in range(10 * MAX_ENTRIES):
        put(span, number)
    assert len(span.recorded() or "") < 64 * 1024


def test_what_no_span_can_carry_becomes_text() -> None:
    span = attempt()
    span.set_attributes({"big": 2**70, "lone": "\ud800", "bytes": b"x"})
    span.add_event("early", timestamp=-1)
    recorded = json.loads(span.recorded() or "")
    assert recorded["attributes"] == {"big": str(2**70), "lone": "?", "bytes": "b'x'"}
    assert recorded["events"] == [["early", 0, {}]]


def test_an_attempt_that_has_ended_takes_nothing() -> None:
    span = attempt()
    assert span.recorded() is None
    span.set_attribute("late", 1)
    assert not span.is_recording()
    assert span.recorded() is None


@pytest.mark.mongodb
async def test_a_transactional_activity_keeps_what_it_puts_on_its_span(
    sink: Sink, make_hub: MakeHub, mongodb_database_url: str
) -> None:
    hub = make_hub(mongodb_database_url)

    @hub.activity(transactional=True)
    async def reserve() -> None:
        trace.get_current_span().set_attribute("order", 7)

    @hub.orchestrator
    async def main(ctx: OrchestrationContext) -> None:
        await reserve()

    async with hub.worker():
        await (await hub.start(main, instance_id="one")).result()
        await received(sink, ended("one"))
    assert named(sink, "activity:reserve", "SERVER").attributes["order"] == 7
