"""The command line put together: every command is registered here, and nothing else is done."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from durable.cli import bench, hubs, instances, looking, managing, tracing, worker
from durable.cli.exits import ExitCode, report_text

# The help in plain text: rich would make it take a quarter of a second longer.
app = typer.Typer(name="durable", rich_markup_mode=None, pretty_exceptions_enable=False)

# The base of all errors that typer finds in a command line; typer does not export it, and where it is from varies.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

for _module in (worker, instances, looking, managing, hubs, tracing, bench):
    _module.register(app)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Durable orchestrations from a shell.

    The store is named by --url and --hub, or by DURABLE_URL and DURABLE_HUB.
    """
    if show_version:
        typer.echo(version("durable-orchestrations"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> int:
    """Run the command that ``sys.argv`` holds, and return its exit code."""
    try:
        return int(app(prog_name="durable", standalone_mode=False) or ExitCode.OK)
    except _UsageError as error:
        report_text(error.format_message())  # type: ignore[attr-defined]
        return ExitCode.USAGE
    except typer.Abort:
        sys.stderr.write("Nothing was done.\n")
        return ExitCode.FAILED
