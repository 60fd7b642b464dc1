"""Looking at hubs: ``workers``, ``health``, ``hubs``."""

from __future__ import annotations

import os

import typer

from durable.backend import BackendUnavailable
from durable.backend_url import list_hubs
from durable.cli.exits import CommandError, ExitCode
from durable.cli.groups import add_commands
from durable.cli.shapes import health_shape, time_text, worker_shape
from durable.cli.store import Store, shown_url
from durable.environment import hub_location
from durable.health import HubHealth


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_commands(app, {"workers": workers, "health": health, "hubs": hubs})


async def workers(store: Store) -> None:
    """List the workers of a hub that live, and the partitions that each holds."""
    async with store.connected() as hub:
        found = await hub.workers()
    output = store.output
    if output.as_json:
        for worker in found:
            output.document(worker_shape(worker))
        return
    rows = [
        (each.worker_id, each.host, each.pid, time_text(each.started_at), " ".join(map(str, each.partitions)))
        for each in found
    ]
    output.rows(("id", "host", "pid", "started", "partitions"), rows)


async def health(store: Store) -> ExitCode:
    """Say whether the store answers, and how many workers the hub has. Exit code 5 when the store does not answer."""
    count: int | None = None
    try:
        async with store.connected() as hub:
            found = await hub.health()
            count = len(await hub.workers()) if found.connected else None
    except BackendUnavailable as error:
        _, name = hub_location(store.url, store.hub, os.environ)
        found = HubHealth("down", name, False, False, None, 0, str(error))
    shape, output = health_shape(found, count), store.output
    if output.as_json:
        output.document(shape)
    else:
        output.fields(shape.items())
    return ExitCode.OK if found.status == "ok" else ExitCode.UNAVAILABLE


async def hubs(store: Store) -> None:
    """List the task hubs in a store."""
    url = store.location()
    names = await list_hubs(url)
    if names is None:
        raise CommandError(f"the store {shown_url(url)} cannot list its hubs")
    output = store.output
    if output.as_json:
        for name in names:
            output.document({"hub": name})
    else:
        output.rows(("hub",), [(name,) for name in names])
