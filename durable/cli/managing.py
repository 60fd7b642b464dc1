"""Telling instances something: events, suspension, cancellation, termination, rewind, hold, purge.

Rule of this file: what ends or deletes several instances asks first, with their number, unless ``--yes`` is given.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from durable.cli.conditions import Conditions
from durable.cli.exits import CommandError, ExitCode
from durable.cli.groups import Command, add_commands
from durable.cli.output import Output
from durable.cli.store import Store
from durable.cli.values import read_json
from durable.core.state import RuntimeStatus
from durable.hub import TaskHub

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The instance.")]
MaybeId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The instance; else those of the conditions.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept in the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="Without any condition: every instance of the hub.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    commands: dict[str, Command] = {
        "raise": raise_,
        "suspend": suspend,
        "resume": resume,
        "cancel": cancel,
        "terminate": terminate,
        "rewind": rewind,
        "hold": hold,
        "release": release,
        "purge": purge,
    }
    add_commands(app, commands)


async def raise_(
    store: Store,
    instance_id: InstanceId,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Name of the event.")],
    data: Annotated[str, typer.Option(help="Its data: JSON, @file, or - for stdin.")] = "null",
    key: Annotated[str | None, typer.Option(help="Idempotency key: raised twice with it, it counts once.")] = None,
) -> None:
    """Raise an external event to an instance."""
    value = read_json("--data", data)
    async with store.connected() as hub:
        await hub.get(instance_id).raise_event(event, value, idempotency_key=key)
    store.output.say(f"raised {event} to {instance_id}", id=instance_id, event=event)


async def suspend(store: Store, instance_id: InstanceId, reason: Reason = None) -> None:
    """Have an instance stand still until it is resumed."""
    async with store.connected() as hub:
        await hub.get(instance_id).suspend(reason)
    _done(store, "suspended", instance_id)


async def resume(store: Store, instance_id: InstanceId, reason: Reason = None) -> None:
    """Have a suspended instance go on."""
    async with store.connected() as hub:
        await hub.get(instance_id).resume(reason)
    _done(store, "resumed", instance_id)


async def cancel(store: Store, instance_id: InstanceId, reason: Reason = None) -> None:
    """Cancel an instance: its code is told, and may clean up."""
    async with store.connected() as hub:
        await hub.get(instance_id).cancel(reason)
    _done(store, "cancellation asked of", instance_id)


async def rewind(store: Store, instance_id: InstanceId, reason: Reason = None) -> None:
    """Have a failed instance go on from before its first failure."""
    async with store.connected() as hub:
        await hub.get(instance_id).rewind(reason)
    _done(store, "rewound", instance_id)


async def hold(
    store: Store, instance_id: InstanceId, reason: Annotated[str, typer.Option(help="Why it must be kept.")]
) -> None:
    """Keep an instance from being purged."""
    async with store.connected() as hub:
        await hub.get(instance_id).hold(reason)
    _done(store, "held", instance_id)


async def release(store: Store, instance_id: InstanceId) -> None:
    """Allow an instance that was held to be purged."""
    async with store.connected() as hub:
        await hub.get(instance_id).release()
    _done(store, "released", instance_id)


def _done(store: Store, what: str, instance_id: str) -> None:
    store.output.say(f"{what} {instance_id}", id=instance_id)


async def terminate(
    store: Store,
    conditions: Conditions,
    instance_id: MaybeId = None,
    reason: Annotated[str | None, typer.Option(help="Why; it becomes the output.")] = None,
    recursive: Annotated[bool, typer.Option(help="Its sub-orchestrations, too.")] = True,
    compensate: Annotated[bool, typer.Option("--compensate", help="Let the code of the one instance undo.")] = False,
    every: All = False,
    yes: Yes = False,
) -> ExitCode:
    """End an instance, or all that meet the conditions, without asking their code."""
    _check_choice("terminate", instance_id, conditions, every)
    output = store.output
    async with store.connected() as hub:
        if instance_id is not None:
            await hub.get(instance_id).terminate(reason, recursive=recursive, compensate=compensate)
            output.say(f"terminated {instance_id}", id=instance_id)
            return ExitCode.OK
        if compensate:
            raise CommandError("--compensate is for one instance; name it")
        query = conditions.as_query()
        await _ask(hub, "Terminate", query, yes, ended=False)
        done = await hub.query(**query).terminate(reason, recursive=recursive, progress=_Progress(output, "terminated"))
    output.say(f"terminated {done} instances", instancesTerminated=done)
    return ExitCode.OK


async def purge(
    store: Store,
    conditions: Conditions,
    instance_id: MaybeId = None,
    recursive: Annotated[
        bool | None, typer.Option(help="Its sub-orchestrations, too; by default for one instance, not for several.")
    ] = None,
    every: All = False,
    yes: Yes = False,
) -> ExitCode:
    """Delete an instance that has ended, or all such that meet the conditions, with their histories."""
    _check_choice("purge", instance_id, conditions, every)
    output = store.output
    async with store.connected() as hub:
        if instance_id is not None:
            done = await hub.get(instance_id).purge(recursive=recursive is not False)
        else:
            query = conditions.as_query()
            await _ask(hub, "Purge", query, yes, ended=True)
            done = await hub.query(**query).purge(recursive=bool(recursive), progress=_Progress(output, "purged"))
    output.say(f"purged {done} instances", instancesDeleted=done)
    return ExitCode.OK


def _check_choice(what: str, instance_id: str | None, conditions: Conditions, every: bool) -> None:
    if instance_id is not None and (conditions.given or every):
        raise CommandError(f"{what} takes an instance id or conditions, not both: {instance_id!r} is one already")
    if instance_id is None and not conditions.given and not every:
        raise CommandError(f"{what} what? Name an instance, give conditions such as --status, or write --all")


async def _ask(hub: TaskHub, what: str, query: dict[str, Any], yes: bool, *, ended: bool) -> None:
    """Ask about those instances that have ``ended``, or those that have not.

    Raises typer.Abort when the user does not want it, CommandError when there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("this is about several instances, and there is nobody to ask; add --yes")
    counts = await hub.count(by="status", **query)
    number = sum(count for status, count in counts.items() if RuntimeStatus(status).is_terminal is ended)
    state = "have ended" if ended else "have not ended"
    typer.confirm(f"{what} {number} instances that {state} in hub {hub.name!r}?", abort=True, err=True)


class _Progress:
    """How many are done, shown in place on a terminal."""

    def __init__(self, output: Output, what: str) -> None:
        self._shown = output.for_people and sys.stderr.isatty()
        self._what = what

    def __call__(self, done: int) -> None:
        if self._shown:
            sys.stderr.write(f"\r{self._what} {done} ")
            sys.stderr.flush()
