"""The standard ``OTEL_*`` variables: which exporter, whether at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module

from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

_MODULES = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


def is_disabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``OTEL_SDK_DISABLED`` or ``OTEL_TRACES_EXPORTER=none`` turns tracing off."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def exporter_of(environment: Mapping[str, str] = os.environ) -> SpanExporter:
    """The exporter that ``OTEL_TRACES_EXPORTER`` and ``OTEL_EXPORTER_OTLP_PROTOCOL`` ask for; else OTLP over HTTP.

    Its endpoint, headers, compression and timeout follow the variables by themselves. Raises ValueError for an exporter
    or protocol that is not known, ModuleNotFoundError where its package is not installed.
    """
    name = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise ValueError(f"OTEL_TRACES_EXPORTER must be otlp, console or none, not {name!r}; pass an exporter instead")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = (protocol or "http/protobuf").strip().lower()
    if protocol not in _MODULES:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be one of {sorted(_MODULES)}, not {protocol!r}")
    make: Callable[[], SpanExporter] = import_module(_MODULES[protocol]).OTLPSpanExporter
    return make()
