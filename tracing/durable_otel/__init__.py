"""OpenTelemetry for durable: traces, metrics and log fields, as an instrument of a task hub.

``hub.instrument(OpenTelemetry())`` is all there is to set up; it needs the extra ``otel``.
"""

from __future__ import annotations

try:
    from durable_otel._environment import exporter_of
    from durable_otel._instrument import OpenTelemetry
    from durable_otel._logs import InstanceLogFilter
    from durable_otel._settings import TraceSettings
    from durable_otel._spans import export_history, exportable
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("opentelemetry"):
        raise
    raise ModuleNotFoundError(
        f"{error.name} is missing; install it with: pip install 'durable-orchestrations[otel]'", name=error.name
    ) from error

__all__ = ["InstanceLogFilter", "OpenTelemetry", "TraceSettings", "export_history", "exportable", "exporter_of"]
