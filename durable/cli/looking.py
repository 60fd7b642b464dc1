"""Looking at instances: ``list``, ``show``, ``history``, ``executions``, ``tree``, ``count``."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import typer

from durable.backend_queries import check_grouping
from durable.cli.conditions import Conditions
from durable.cli.exits import ExitCode
from durable.cli.groups import add_commands
from durable.cli.output import Output
from durable.cli.shapes import HISTORY_COLUMNS, history_shape, status_shape, time_text
from durable.cli.store import Store
from durable.cli.tree import draw, read_tree
from durable.cli.watching import watch
from durable.core.state import RuntimeStatus
from durable.handle import InstanceStatus

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="The instance.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_commands(app, {"list": list_, "show": show, "history": history, "executions": executions})
    add_commands(app, {"tree": tree, "count": count})


async def list_(
    store: Store,
    conditions: Conditions,
    limit: Annotated[int, typer.Option(min=0, help="Rows at most; 0: all.")] = 100,
    oldest: Annotated[bool, typer.Option("--oldest", help="Oldest first, not newest.")] = False,
) -> None:
    """List instances, newest first."""
    query = conditions.as_query() | ({"order": "oldest"} if oldest else {})
    output, more = store.output, False
    found: list[InstanceStatus] = []
    async with store.connected() as hub, aclosing(aiter_of(hub.query(**query))) as statuses:
        async for status in statuses:
            if more := bool(limit) and len(found) == limit:
                break
            if output.as_json:
                output.document(status_shape(status))
            found.append(status)
    if not output.as_json:
        output.rows(("id", "name", "status", "created", "updated", "custom status"), map(_row, found))
    if more:
        output.note(f"These are the first {limit}; --limit 0 shows all.")


async def aiter_of(instances: Any) -> Any:
    """The statuses of a query as a generator, which can be closed before its end."""
    async for status in instances:
        yield status


def _row(status: InstanceStatus) -> tuple[Any, ...]:
    return (
        status.instance_id,
        status.name,
        status.runtime_status.value,
        time_text(status.created_at),
        time_text(status.last_updated_at),
        status.custom_status if status.problem is None else f"problem: {status.problem}",
    )


async def show(
    store: Store,
    instance_id: InstanceId,
    watching: Annotated[bool, typer.Option("--watch", help="Show each change until it has ended.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end first.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait or watch at most.")] = None,
) -> ExitCode:
    """Show an instance. With --wait or --watch, exit code 1 unless it ended as Completed."""
    output = store.output
    async with store.connected() as hub:
        handle = hub.get(instance_id)
        if not (watching or wait):
            show_status(output, await handle.status(), await hub.trace_url(instance_id))
            return ExitCode.OK
        return show_end(output, await watch(output, handle, timeout, live=watching or output.for_people))


def show_end(output: Output, status: InstanceStatus) -> ExitCode:
    """Show an instance that has ended; FAILED unless it completed."""
    show_status(output, status)
    return ExitCode.OK if status.runtime_status is RuntimeStatus.COMPLETED else ExitCode.FAILED


def show_status(output: Output, status: InstanceStatus, trace_url: str | None = None) -> None:
    """Show an instance: its JSON, or what of it there is."""
    shape = status_shape(status)
    if trace_url is not None:
        shape["traceUrl"] = trace_url
    if output.as_json:
        output.document(shape)
        return
    failure = shape.pop("failureDetails")
    if failure is not None:
        shape["failure"] = f"{failure['errorType']}: {failure['errorMessage']}"
    output.fields([(name, value) for name, value in shape.items() if value != {}])


async def history(
    store: Store,
    instance_id: InstanceId,
    execution: Annotated[str | None, typer.Option(help="One of `durable executions`, not the current one.")] = None,
) -> None:
    """Show the history of an instance: the events of its current execution, in order."""
    output = store.output
    async with store.connected() as hub:
        events = history_shape(await hub.get(instance_id).history(execution_id=execution))
    if output.as_json:
        for event in events:
            output.document(event)
        return
    for event in events:
        failure = event.get("FailureDetails")
        if failure is not None:
            event["Result"] = f"{failure['errorType']}: {failure['errorMessage']}"
    rows = [(number, *(event[column] for column in HISTORY_COLUMNS)) for number, event in enumerate(events)]
    output.rows(("#", *HISTORY_COLUMNS), rows)


async def executions(store: Store, instance_id: InstanceId) -> None:
    """List the executions of an instance whose history is there, newest first."""
    output = store.output
    async with store.connected() as hub:
        found = await hub.get(instance_id).executions()
    if output.as_json:
        output.document(found)
    else:
        output.rows(("execution",), [(one,) for one in found])


async def tree(store: Store, instance_id: InstanceId) -> None:
    """Show an instance and the sub-orchestrations below it."""
    async with store.connected() as hub:
        draw(store.output, await read_tree(hub, instance_id))


async def count(
    store: Store,
    conditions: Conditions,
    by: Annotated[str, typer.Option(help="status or name.")] = "status",
) -> None:
    """Count instances by status or by name."""
    async with store.connected() as hub:
        counts = await hub.count(by=check_grouping(by), **conditions.as_query())
    output = store.output
    if output.as_json:
        output.document(counts)
    else:
        output.rows((by, "instances"), sorted(counts.items()))
