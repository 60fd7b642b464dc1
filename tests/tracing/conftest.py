"""A receiver, hubs that export to it, and a tracer of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from durable import TaskHub
from durable_otel import OpenTelemetry, TraceSettings
from tests.otlp_sink import Sink, running_sink

RESOURCE = Resource({"service.name": "orders", "service.instance.id": uuid4().hex, "process.pid": 1})


@pytest.fixture(params=["memory", "sqlite", pytest.param("mongodb", marks=pytest.mark.mongodb)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of each kind."""
    match request.param:
        case "memory":
            return f"memory://{uuid4().hex}"
        case "sqlite":
            return f"sqlite:///{tmp_path / 'hub.db'}"
        case _:
            url: str = request.getfixturevalue("mongodb_database_url")
            return url


def unsampled_caller() -> AbstractContextManager[Any]:
    """A block within a trace of somebody else that is not sampled."""
    ids = SpanContext(uuid4().int, uuid4().int >> 64, is_remote=True, trace_flags=TraceFlags(0))
    return use_span(NonRecordingSpan(ids))


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as running:
        yield running


def exporter_to(sink: Sink) -> SpanExporter:
    """An exporter to the receiver that gives up quickly."""
    return OTLPSpanExporter(endpoint=sink.http_url, timeout=1)


@pytest.fixture
def user_tracing(sink: Sink) -> Iterator[TracerProvider]:
    """The user's own tracing, to the same receiver."""
    made = TracerProvider(resource=RESOURCE)
    made.add_span_processor(SimpleSpanProcessor(exporter_to(sink)))
    yield made
    made.shutdown()


MakeHub = Callable[..., TaskHub]


@pytest.fixture
def make_hub(sink: Sink) -> MakeHub:
    """Makes traced hubs. Live spans go nowhere without a ``provider``; other keywords are settings of the trace."""

    def make(
        url: str = "",
        *,
        exporter: SpanExporter | None = None,
        provider: TracerProvider | None = None,
        **settings: Any,
    ) -> TaskHub:
        settings.setdefault("cpu_share", 1.0)
        hub = TaskHub(url or f"memory://{uuid4().hex}")
        hub.instrument(
            OpenTelemetry(
                exporter or exporter_to(sink),
                resource=RESOURCE,
                tracer_provider=provider or TracerProvider(resource=RESOURCE),
                settings=TraceSettings(**settings),
            )
        )
        return hub

    return make
