"""``durable trace``: links to traces, and sending those of the past again."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Command
from tests.otlp_sink import running_sink

TEMPLATE = "http://jaeger.invalid/trace/{trace_id}?hub={hub}&id={instance_id}"


def test_export_sends_the_trace_that_the_link_leads_to(looking: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_URL_TEMPLATE", TEMPLATE)
    link = looking("trace", "url", "done-1").out.strip()
    with running_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.http_url.removesuffix("/v1/traces"))
        monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
        exported = looking("trace", "export", "done-1", "--json").json
        spans = sink.of("done-1")
        again = looking("trace", "export", "done-1", "--json").json
        assert exported == again == {"instanceId": "done-1", "spans": len(spans)}
        assert {span.trace_id for span in spans} == {link.partition("?")[0].rpartition("/")[2]}
        assert spans[0].resource["service.name"] == "orders"
        assert {span.span_id for span in sink.of("done-1")} == {span.span_id for span in spans}  # the same once more
    assert link.endswith("?hub=default&id=done-1")
    assert looking("show", "done-1", "--json").json["traceUrl"] == link


def test_what_cannot_be_linked_or_sent_is_one_line(looking: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACE_URL_TEMPLATE", raising=False)
    assert looking("trace", "url", "done-1").code == 2
    wrong = looking("trace", "url", "done-1", "--template", "http://x/{traceid}")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    assert "{trace_id}" in wrong.err
    assert looking("trace", "url", "nobody", "--template", TEMPLATE).code == 3
    assert "traceUrl" not in looking("show", "done-1", "--json").json
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    refused = looking("trace", "export", "done-1")
    assert refused.code == 1
    assert "the exporter took 0 of" in refused.err
