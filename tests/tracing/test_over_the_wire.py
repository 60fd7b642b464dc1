"""Spans over the wire: exported as they end, through outages, by several workers, never in the way of the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from durable import OrchestrationContext, OrchestrationFailedError, Registry
from durable.projection import project, span_to_dict
from durable_otel import export_history
from tests.otlp_sink import Received, Sink
from tests.tracing.conftest import RESOURCE, MakeHub, exporter_to, unsampled_caller

registry = Registry()


@registry.activity
async def double(number: int) -> int:
    return number * 2


@registry.activity
async def refuse() -> None:
    raise ValueError("no")


@registry.orchestrator
async def steps(ctx: OrchestrationContext, count: int) -> int:
    total = 1
    for _ in range(count):
        total = await double(total)
    return total


@registry.orchestrator
async def waits(ctx: OrchestrationContext) -> int:
    first = await double(1)
    return first + await ctx.wait_for_external_event("go", int)


@registry.orchestrator
async def fails(ctx: OrchestrationContext) -> None:
    await refuse()


@registry.orchestrator
async def family(ctx: OrchestrationContext, depth: int) -> int:
    return await double(1) if depth == 0 else await family(depth - 1)


def ended(instance_id: str) -> Callable[[Sink], bool]:
    """Whether the instance's own span is here."""

    def good(sink: Sink) -> bool:
        own = (one for one in sink.spans if one.name.startswith("orchestration:") and one.kind == "SERVER")
        return any(one.attributes["durabletask.task.instance_id"] == instance_id for one in own)

    return good


async def received(sink: Sink, good: Callable[[Sink], bool]) -> None:
    """Wait in a thread, so that the loop goes on."""
    await asyncio.to_thread(sink.wait, good)


def check_whole(spans: list[Received]) -> None:
    """One trace, one top, no orphans, children within their parents."""
    by_id = {one.span_id: one for one in spans}
    assert len({one.trace_id for one in spans}) == 1
    assert [one.kind for one in spans if not one.parent_id] == ["SERVER"]
    for one in spans:
        if one.parent_id:
            parent = by_id[one.parent_id].span
            assert parent.start_time_unix_nano <= one.span.start_time_unix_nano
            assert one.span.end_time_unix_nano <= parent.end_time_unix_nano


@pytest.mark.parametrize("how", ["http", "gzip", "grpc"])
async def test_what_arrives_is_the_projection_of_history(how: str, sink: Sink, make_hub: MakeHub) -> None:
    exporter: SpanExporter
    match how:
        case "grpc":
            exporter = GrpcExporter(endpoint=f"127.0.0.1:{sink.grpc_port}", insecure=True)
        case "gzip":
            exporter = OTLPSpanExporter(endpoint=sink.http_url, compression=Compression.Gzip)
        case _:
            exporter = OTLPSpanExporter(endpoint=sink.http_url)
    hub = make_hub(exporter=exporter)
    hub.include(registry)
    async with hub.worker():
        handle = await hub.start(steps, 3, instance_id="order-1")
        assert await handle.result() == 8
        history = await handle.history()
        await received(sink, ended("order-1"))
    exporter.shutdown()
    spans = sink.of("order-1")
    check_whole(spans)
    expected = {span["span_id"]: span for span in map(span_to_dict, project("default", history))}
    assert {one.span_id for one in spans} == expected.keys()
    for one in spans:
        assert one.attributes == expected[one.span_id]["attributes"]
        assert (one.name, one.kind) == (expected[one.span_id]["name"], expected[one.span_id]["kind"])
    assert {tuple(one.resource.items()) for one in spans} == {(("service.name", "orders"),)}
    assert sink.encodings <= {how if how == "gzip" else "identity", "identity"}


async def test_children_are_in_the_trace_of_the_one_at_the_top(sink: Sink, make_hub: MakeHub, store_url: str) -> None:
    hub = make_hub(store_url)
    hub.include(registry)
    async with hub.worker():
        handle = await hub.start(family, 3, instance_id="top")
        await handle.result()
        await received(sink, ended("top"))
    check_whole(list(sink.distinct().values()))


async def test_an_outage_is_caught_up_and_the_loop_does_not_wait(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(max_pending=20)
    hub.include(registry)
    sink.refuses = True
    async with hub.worker():
        handles = [await hub.start(steps, 5, instance_id=f"order-{n}") for n in range(30)]
        assert {await handle.result() for handle in handles} == {32}
        await received(sink, lambda sink: sink.refused > 0)
        assert sink.spans == []
        sink.refuses = False
        for handle in handles:
            await received(sink, ended(handle.instance_id))
    for handle in handles:
        spans = sink.of(handle.instance_id)
        check_whole(spans)
        assert len(spans) == 2 + 2 * 5


async def test_a_receiver_that_hangs_holds_up_nobody(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(flush_timeout=0.2)
    hub.include(registry)
    sink.hang()
    worst = 0.0
    async with hub.worker():
        handle = await hub.start(steps, 1)
        await handle.result()
        await received(sink, lambda sink: sink.hanging > 0)
        for _ in range(20):
            begun = perf_counter()
            assert await (await hub.start(steps, 2)).result() == 4
            worst = max(worst, perf_counter() - begun)
    assert worst < 1, "an export that hangs held up an orchestration"


class Stuck(SpanExporter):
    """An exporter that takes what it is given when it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        self.let_go.wait()
        return SpanExportResult.SUCCESS


async def test_what_is_not_exported_in_time_is_left_when_the_hub_closes(make_hub: MakeHub) -> None:
    exporter = Stuck()
    hub = make_hub(exporter=exporter, flush_timeout=0.2)
    hub.include(registry)
    async with hub.worker():
        for handle in [await hub.start(steps, 20) for _ in range(20)]:
            await handle.result()
    exporter.let_go.set()
    async with asyncio.timeout(30):
        while any(thread.name == "durable-otel" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
    assert exporter.calls <= 2  # of seven: what was ready when it got stuck


async def test_a_span_that_is_never_taken_does_not_hold_up_the_others(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(exporter=OTLPSpanExporter(endpoint=sink.http_url, timeout=0.1))
    hub.include(registry)
    sink.refuses_name = "orchestration:waits started"
    async with hub.worker():
        await hub.start(waits, instance_id="odd")
        await (await hub.start(steps, 2, instance_id="even")).result()
        await received(sink, ended("even"))
    assert {one.name for one in sink.of("odd")} == {"activity:double"}


async def test_the_loop_goes_on_while_much_is_exported(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub()
    hub.include(registry)
    lags: list[float] = []
    async with hub.worker():
        sink.refuses = True
        for handle in [await hub.start(steps, 10, instance_id=f"many-{n}") for n in range(100)]:
            await handle.result()
        sink.refuses = False
        while not all(ended(f"many-{n}")(sink) for n in range(100)):
            begun = perf_counter()
            await asyncio.sleep(0.005)
            lags.append(perf_counter() - begun - 0.005)
    lags.sort()
    assert lags[len(lags) // 2] < 0.05, "half of the loop's rounds waited for the exporting thread"


async def test_exporting_leaves_no_spans_of_its_own(sink: Sink, make_hub: MakeHub) -> None:
    """An exporter whose HTTP client is instrumented asks for the suppression key; ours sets it."""
    from opentelemetry import context

    seen: list[object] = []

    class Watching(OTLPSpanExporter):
        def export(self, spans: Any) -> Any:
            seen.append(context.get_value("suppress_instrumentation") or context.get_value(_key()))
            assert threading.current_thread() is not threading.main_thread()
            return super().export(spans)

    hub = make_hub(exporter=Watching(endpoint=sink.http_url))
    hub.include(registry)
    async with hub.worker():
        await (await hub.start(steps, 1, instance_id="quiet")).result()
        await received(sink, ended("quiet"))
    assert seen
    assert all(seen)


def _key() -> str:
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

    return _SUPPRESS_INSTRUMENTATION_KEY


async def test_workers_that_die_and_take_over_repeat_the_same_bytes(
    sink: Sink, make_hub: MakeHub, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    first, second = make_hub(url), make_hub(url)
    for hub in (first, second):
        hub.include(registry)
    async with first.worker(lease_time=0.5):
        handle = await first.start(waits, instance_id="moves")
        await received(sink, lambda sink: any(one.name == "activity:double" for one in sink.spans))
        sink.refuses = True
        done = await first.start(steps, 2, instance_id="unseen")
        await done.result()
        assert first._worker is not None
        await first._worker.abandon()
        sink.refuses = False
        async with second.worker(lease_time=0.5):
            await second.get("moves").raise_event("go", 3)
            assert await second.get("moves").result() == 5
            await received(sink, ended("moves"))
            await received(sink, ended("unseen"))
    for name in (handle.instance_id, done.instance_id):
        check_whole(sink.of(name))
    assert len(sink.spans) >= len(sink.distinct())  # distinct() has compared the repetitions byte by byte


async def test_an_instance_of_the_past_is_exported_as_it_was_live(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub()
    hub.include(registry)
    async with hub.worker():
        handle = await hub.start(steps, 2, instance_id="again")
        await handle.result()
        await received(sink, ended("again"))
        before = sink.distinct().keys()
        history = await handle.history()
        count = await asyncio.to_thread(export_history, exporter_to(sink), "default", history, resource=RESOURCE)
    assert count == 6
    assert sink.distinct().keys() == before


async def test_at_completion_all_of_an_instance_comes_at_once(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(cadence="completion")
    hub.include(registry)
    async with hub.worker():
        await hub.start(waits, instance_id="later")
        await (await hub.start(steps, 1, instance_id="now")).result()
        await received(sink, ended("now"))
        assert sink.of("later") == []
        await hub.get("later").raise_event("go", 1)
        await received(sink, ended("later"))
    check_whole(sink.of("later"))


async def test_what_is_not_sampled_is_exported_when_it_fails(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(sample=0.0)
    hub.include(registry)
    async with hub.worker():
        with unsampled_caller():
            well = await hub.start(steps, 1, instance_id="well")
            badly = await hub.start(fails, instance_id="badly")
        await well.result()
        with pytest.raises(OrchestrationFailedError):
            await badly.result()
        await received(sink, ended("badly"))
    check_whole(sink.of("badly"))
    assert sink.of("well") == []


async def test_a_root_at_the_start_is_there_while_the_instance_runs(sink: Sink, make_hub: MakeHub) -> None:
    hub = make_hub(root_span="at_start")
    hub.include(registry)
    async with hub.worker():
        handle = await hub.start(waits, instance_id="long")
        await received(sink, ended("long"))
        await handle.raise_event("go", 1)
        await received(sink, lambda sink: any(one.name == "orchestration:waits completed" for one in sink.spans))
    spans = sink.of("long")
    assert len({one.trace_id for one in spans}) == 1
    assert {one.parent_id for one in spans} - {one.span_id for one in spans} == {""}
