"""Set-up in one line: the standard variables, metrics, log fields; and nothing at all without OpenTelemetry."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from durable import OrchestrationContext, Registry, TaskHub
from durable.instrument import Instrument
from durable_otel import InstanceLogFilter, TraceSettings
from durable_otel._environment import exporter_of, is_disabled
from durable_otel._settings import sample_of
from durable_otel._spans import stable_resource
from tests.otlp_sink import Sink
from tests.tracing.conftest import MakeHub
from tests.tracing.test_over_the_wire import ended, received

ROOT = Path(__file__).parent.parent.parent
registry = Registry()
log = logging.getLogger("some.library")


@registry.activity
async def speak(fail: bool) -> None:
    log.warning("speaking")
    if fail:
        raise ValueError("no")


@registry.orchestrator
async def speaker(ctx: OrchestrationContext, fail: bool) -> None:
    ctx.logger.warning("begins")
    await speak(fail)


PROGRAM = """
import asyncio
from durable import OrchestrationContext, TaskHub
from durable_otel import OpenTelemetry
from opentelemetry import trace

hub = TaskHub("memory://environment")

@hub.activity
async def say() -> str:
    with trace.get_tracer("mine").start_as_current_span("mine"):
        return "said"

@hub.orchestrator
async def talk(ctx: OrchestrationContext) -> str:
    return await say()

hub.instrument(OpenTelemetry())

async def main() -> None:
    async with hub.worker():
        print(await (await hub.start(talk, instance_id="talk-1")).result())

asyncio.run(main())
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "backends", "tracing"))
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_one_line_and_the_standard_variables_are_enough(protocol: str, sink: Sink) -> None:
    port = sink.http_port if protocol == "http/protobuf" else sink.grpc_port
    done = run(
        PROGRAM,
        OTEL_SERVICE_NAME="talks",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_INSECURE="true",
    )
    assert done.stdout == "said\n"
    sink.wait(ended("talk-1"))
    names = {(one.name, one.kind) for one in sink.distinct().values()}
    assert {("create_orchestration:talk", "PRODUCER"), ("orchestration:talk", "SERVER"), ("mine", "INTERNAL")} <= names
    assert {one.resource["service.name"] for one in sink.spans} == {"talks"}


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=str)
def test_the_standard_variables_turn_it_off(off: dict[str, str]) -> None:
    assert is_disabled(off)
    assert run(PROGRAM, **off).stdout == "said\n"


def test_without_opentelemetry_everything_works_but_tracing() -> None:
    program = """
import asyncio, sys
sys.modules["opentelemetry"] = None  # as where it is not installed
from durable import OrchestrationContext, TaskHub
from durable.projection import project
hub = TaskHub("memory://without")

@hub.orchestrator
async def quiet(ctx: OrchestrationContext) -> int:
    return 1

async def main() -> None:
    async with hub.worker():
        handle = await hub.start(quiet)
        print(await handle.result(), len(project("without", await handle.history())))

asyncio.run(main())
try:
    import durable_otel
except ModuleNotFoundError as error:
    print(error)
"""
    lines = run(program).stdout.splitlines()
    assert lines[0] == "1 2"
    assert "pip install 'durable-orchestrations[otel]'" in lines[1]


def test_the_variables_choose_the_exporter() -> None:
    assert isinstance(exporter_of({"OTEL_TRACES_EXPORTER": "console"}), ConsoleSpanExporter)
    assert isinstance(exporter_of({}), OTLPSpanExporter)
    with pytest.raises(ValueError, match="zipkin"):
        exporter_of({"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(ValueError, match="http/json"):
        exporter_of({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


@pytest.mark.parametrize(
    ("sampler", "argument", "share"),
    [
        ("", "", 1.0),
        ("always_on", "", 1.0),
        ("parentbased_always_off", "", 0.0),
        ("traceidratio", "0.25", 0.25),
        ("parentbased_traceidratio", "", 1.0),
    ],
)
def test_the_variables_choose_the_share(sampler: str, argument: str, share: float) -> None:
    assert sample_of({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}) == share


@pytest.mark.parametrize(
    "wrong", [{"sample": 2.0}, {"cpu_share": 0.0}, {"max_pending": 0}, {"trace": "both"}, {"cadence": "never"}], ids=str
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TraceSettings(**wrong)


def test_the_resource_holds_nothing_that_differs_between_processes() -> None:
    given = Resource.create({"service.name": "a", "service.instance.id": uuid4().hex, "host.name": "h"})
    assert dict(stable_resource(given).attributes) == {"service.name": "a"}


async def test_a_hub_takes_one_instrument_before_it_connects() -> None:
    hub = TaskHub(f"memory://{uuid4().hex}")
    hub.instrument(Instrument())
    with pytest.raises(RuntimeError, match="one instrument"):
        hub.instrument(Instrument())
    other = TaskHub(f"memory://{uuid4().hex}")
    async with other:
        with pytest.raises(RuntimeError, match="before it is connected"):
            other.instrument(Instrument())


async def test_records_say_where_they_were_made(sink: Sink, make_hub: MakeHub) -> None:
    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keeping()
    handler.addFilter(InstanceLogFilter())
    logging.getLogger().addHandler(handler)
    try:
        hub = make_hub()
        hub.include(registry)
        async with hub.worker():
            await (await hub.start(speaker, False, instance_id="logged")).result()
            await received(sink, ended("logged"))
            log.warning("outside")
    finally:
        logging.getLogger().removeHandler(handler)
    fields = {record.getMessage(): vars(record) for record in records}
    spans = {one.span_id: one for one in sink.of("logged")}
    begins, speaking = fields["begins"], fields["speaking"]
    assert (begins["instance_id"], spans[begins["span_id"]].name) == ("logged", "orchestration:speaker")
    assert (speaking["instance_id"], speaking["activity"], speaking["attempt"]) == ("logged", "speak", 1)
    attempt = spans[speaking["span_id"]]
    assert (attempt.name, attempt.kind, attempt.trace_id) == ("activity:speak", "SERVER", speaking["trace_id"])
    assert (fields["outside"]["instance_id"], fields["outside"]["trace_id"]) == (None, None)
