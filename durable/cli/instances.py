"""Starting instances, and waiting for their end: ``start``, ``restart``, ``fork``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from durable.cli.exits import ExitCode
from durable.cli.groups import add_commands
from durable.cli.looking import show_end
from durable.cli.store import Store
from durable.cli.values import read_json, read_tags, read_time
from durable.cli.watching import watch
from durable.handle import InstanceHandle

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The instance.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end; exit code 1 unless it is Completed.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_commands(app, {"start": start, "restart": restart, "fork": fork})


async def start(
    store: Store,
    name: Annotated[str, typer.Argument(help="The orchestrator.")],
    input: Annotated[
        list[str] | None,
        typer.Option("--input", help="An argument: JSON, @file, or - for stdin. Repeat it for further arguments."),
    ] = None,
    id: Annotated[str | None, typer.Option("--id", help="The instance id; else a new one.")] = None,
    at: Annotated[str | None, typer.Option(help="When: a time, or 15m for in 15 minutes.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the orchestrator.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag key=value; may be repeated.")] = None,
    on_conflict: Annotated[
        str | None, typer.Option(help="If the id is taken: raise, use_existing, replace_finished, terminate_existing.")
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Start an instance and print its id. It is durable then; a worker runs it."""
    arguments = [read_json("--input", text) for text in input or ()]
    options: dict[str, Any] = {
        "instance_id": id,
        "start_at": read_time("--at", at, sign=1),
        "version": version,
        "tags": read_tags("--tag", tag or ()),
        "on_conflict": on_conflict,
    }
    async with store.connected(create=True) as hub:
        handle = await hub.start(name, *arguments, **{key: value for key, value in options.items() if value})
        return await _started(store, handle, wait, timeout)


async def restart(
    store: Store,
    instance_id: InstanceId,
    id: Annotated[str | None, typer.Option("--id", help="Id of the new instance; else a new one.")] = None,
    same_id: Annotated[bool, typer.Option("--same-id", help="Under the id of the old one, which goes.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Start an instance anew with the input that it had, and print the id."""
    async with store.connected() as hub:
        handle = await hub.get(instance_id).restart(new_id=not same_id, instance_id=id)
        return await _started(store, handle, wait, timeout)


async def fork(
    store: Store,
    instance_id: InstanceId,
    from_event: Annotated[int | None, typer.Option(help="Number of the last history event that it shares.")] = None,
    version: Annotated[str | None, typer.Option(help="Version that the new instance runs.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Id of the new instance; else a new one.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> ExitCode:
    """Start a new instance that shares the history of another one up to an event, and print its id."""
    async with store.connected() as hub:
        handle = await hub.get(instance_id).fork(from_event=from_event, version=version, instance_id=id)
        return await _started(store, handle, wait, timeout)


async def _started(store: Store, handle: InstanceHandle[Any], wait: bool, timeout: float | None) -> ExitCode:
    output = store.output
    if not wait:
        output.say(handle.instance_id, id=handle.instance_id)
        return ExitCode.OK
    output.note(f"started {handle.instance_id}")
    return show_end(output, await watch(output, handle, timeout, live=output.for_people))
