"""``python -m tests.tracing.picture`` draws the picture of docs/tracing.md, from the spans that a receiver got."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from html import escape
from pathlib import Path
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from durable import ActivityContext, OrchestrationContext, RetryPolicy, TaskHub
from durable_otel import OpenTelemetry
from tests.otlp_sink import Received, Sink, running_sink

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "order-trace.svg"
ROW, LEFT, RIGHT, WIDTH = 22, 300, 560, 900
COLOURS = {
    "SERVER": "#4c78a8",
    "CLIENT": "#9ecae9",
    "INTERNAL": "#bab0ac",
    "CONSUMER": "#f58518",
    "PRODUCER": "#54a24b",
}
resource = Resource({"service.name": "orders"})


def order_hub(url: str) -> TaskHub:
    """An order: stock is reserved, the card is charged at the second try, and the parcel is waited for."""
    hub = TaskHub(f"memory://{uuid4().hex}")
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=url)))
    hub.instrument(OpenTelemetry(OTLPSpanExporter(endpoint=url), resource=resource, tracer_provider=provider))
    tracer = provider.get_tracer("shop")

    @hub.activity
    async def reserve(item: str) -> None:
        with tracer.start_as_current_span("UPDATE stock"):
            await asyncio.sleep(0.04)

    @hub.activity
    async def charge(amount: int) -> None:
        with tracer.start_as_current_span("POST /payments"):
            await asyncio.sleep(0.06)
        trace.get_current_span().set_attribute("amount", amount)
        if ActivityContext.current().attempt == 1:
            raise ConnectionError("the bank is busy")

    @hub.orchestrator
    async def reserve_all(ctx: OrchestrationContext, items: list[str]) -> None:
        await asyncio.gather(*[reserve(item) for item in items])

    @hub.orchestrator
    async def order(ctx: OrchestrationContext, items: list[str]) -> str:
        await reserve_all(items)
        await charge.options(retry=RetryPolicy(first_interval=timedelta(milliseconds=50)))(30)
        return str(await ctx.wait_for_external_event("packed"))

    return hub


def ordered(spans: list[Received]) -> list[tuple[int, Received]]:
    """The spans as a tree, each with its depth, children by their start."""
    below: dict[str, list[Received]] = {}
    known = {one.span_id for one in spans}
    for one in sorted(spans, key=lambda one: one.span.start_time_unix_nano):
        below.setdefault(one.parent_id if one.parent_id in known else "", []).append(one)

    def walk(parent: str, depth: int) -> list[tuple[int, Received]]:
        return [row for one in below.get(parent, []) for row in [(depth, one), *walk(one.span_id, depth + 1)]]

    return walk("", 0)


def draw(spans: list[Received]) -> str:
    """The spans as bars."""
    rows = ordered(spans)
    first = min(one.span.start_time_unix_nano for one in spans)
    scale = RIGHT / (max(one.span.end_time_unix_nano for one in spans) - first)
    height = ROW * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
    ]
    for number, (depth, one) in enumerate(rows):
        y = 5 + ROW * number
        x = LEFT + (one.span.start_time_unix_nano - first) * scale
        width = max(2.0, (one.span.end_time_unix_nano - one.span.start_time_unix_nano) * scale)
        failed = one.span.status.code == one.span.status.STATUS_CODE_ERROR
        colour = "#e45756" if failed else COLOURS[one.kind]
        parts.append(f'<text x="{8 + 14 * depth}" y="{y + 15}">{escape(one.name)}</text>')
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{ROW - 8}" rx="2" fill="{colour}">'
            f"<title>{one.kind}</title></rect>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


async def run_order(sink: Sink) -> list[Received]:
    """The spans of one order, as they came."""
    hub = order_hub(sink.http_url)
    async with hub.worker():
        handle = await hub.start("order", ["tea", "pot", "cup"], instance_id="order-1")
        while sum(one.name == "activity:charge" for one in sink.spans) < 4:
            await asyncio.sleep(0.05)
        await handle.raise_event("packed", "sent")
        await handle.result()
    (own,) = [one for one in sink.spans if one.name == "orchestration:order" and one.kind == "SERVER"]
    return [one for one in sink.distinct().values() if one.trace_id == own.trace_id]


def main() -> None:
    with running_sink() as sink:
        spans = asyncio.run(run_order(sink))
    PICTURE.write_text(draw(spans), "utf-8")


if __name__ == "__main__":
    main()
