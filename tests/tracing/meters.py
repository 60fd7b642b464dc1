"""The instruments of a hub as a user's reader reads them."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from durable import TaskHub
from durable_otel import OpenTelemetry, TraceSettings


class Meters:
    """The instruments as they are at the moment."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def points(self, name: str, **attributes: str) -> list[Any]:
        """The points of an instrument that have these attributes."""
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [scope for one in data.resource_metrics for scope in one.scope_metrics]
        found = [one for scope in scopes for one in scope.metrics if one.name == name]
        points: list[Any] = [point for one in found for point in one.data.data_points]
        return [point for point in points if attributes.items() <= point.attributes.items()]

    def total(self, name: str, **attributes: str) -> int:
        """What these points count: the sum of a counter, the number of values of a histogram."""
        points = self.points(name, **attributes)
        return sum(point.value if hasattr(point, "value") else point.count for point in points)

    def by(self, name: str, *keys: str) -> dict[tuple[str, ...], float]:
        """The values of an instrument by these attributes."""
        return {tuple(str(point.attributes[key]) for key in keys): point.value for point in self.points(name)}


def measured(hub: TaskHub, meters: Meters) -> None:
    """Have a hub tell these meters."""
    settings = TraceSettings(cpu_share=1.0)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    hub.instrument(OpenTelemetry(exporter, tracer_provider=provider, meter_provider=meters.provider, settings=settings))
