"""Traces of instances: ``trace url``, ``trace export``."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from durable.cli.exits import CommandError
from durable.cli.groups import add_commands
from durable.cli.store import Store
from durable.projection import TraceMode

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The instance.")]
Joined = Annotated[bool, typer.Option("--join", help="Instances are parts of their callers' traces.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    traces = typer.Typer(help="The trace of an instance: where to see it, and sending it again.", no_args_is_help=True)
    add_commands(traces, {"url": url, "export": export})
    app.add_typer(traces, name="trace")


async def url(
    store: Store,
    instance_id: InstanceId,
    template: Annotated[
        str | None,
        typer.Option(help="A URL with {trace_id}, {instance_id}, {hub}; else TRACE_URL_TEMPLATE."),
    ] = None,
    join: Joined = False,
) -> None:
    """Print where the trace of an instance can be seen."""
    async with store.connected() as hub:
        found = await hub.trace_url(instance_id, template, trace=_mode(join))
    if found is None:
        raise CommandError("no template of a URL: give --template or TRACE_URL_TEMPLATE, with {trace_id} in it")
    output = store.output
    if output.as_json:
        output.document({"instanceId": instance_id, "traceUrl": found})
    else:
        typer.echo(found)


async def export(store: Store, instance_id: InstanceId, join: Joined = False) -> None:
    """Send the spans of an instance, also of one long ended, to where the OTEL_* variables say."""
    otel = import_module("durable_otel")  # by name: durable works without it
    async with store.connected() as hub:
        history = await hub.get(instance_id).history()
        name = hub.name
    exporter = otel.exporter_of()
    try:
        count = otel.export_history(exporter, name, history, trace=_mode(join))
    finally:
        exporter.shutdown()
    store.output.say(f"exported {count} spans of {instance_id}", instanceId=instance_id, spans=count)


def _mode(join: bool) -> TraceMode:
    return "join" if join else "own"
