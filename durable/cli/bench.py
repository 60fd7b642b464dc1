"""``durable bench``: the benchmarks, on a store of the user's choice."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durable.cli.exits import CommandError, ExitCode
from durable.cli.groups import add_commands
from durable.cli.output import Output
from durable.cli.store import shown_url

if TYPE_CHECKING:
    from durable.bench.suite import Line, Suite

_COLUMNS = {
    "CPU ms": "CPU ms each",
    "of the floor": "floor CPU ms each",
    "commits": "commits each",
    "syncs": "syncs each",
    "commands": "write commands each",
    "bytes": "bytes each",
    "peak MiB": "peak MiB",
    "x floor": "x floor",
}
"""Columns of the table for the figures that most workloads have; the others are in one column."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add_commands(app, {"bench": bench})


async def bench(
    url: Annotated[
        str | None, typer.Option(help="The store to measure; else SQLite files in a temporary folder.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Workloads, with commas between: W1,W4. Else all.")] = None,
    runs: Annotated[int, typer.Option(help="Runs of each workload; the medians are shown.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: to see that it works, not to measure.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each workload.")] = False,
) -> None:
    """Measure durable on this machine and a store. It works in hubs of its own and takes them away again.

    DURABLE_URL does not count: a store is put under load only when it is named here.
    """
    from durable.bench.environment import environment
    from durable.bench.stores import a_store
    from durable.bench.suite import Suite

    # As Ctrl-C, which unwinds: what was made must go.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    output = Output(as_json=json)
    lines: list[Line] = []
    with a_store(url) as store:
        suite = Suite(store, only, runs, quick)
        about = environment(store) | {"runs": runs, "quick": quick}
        if url is not None:
            about["url"] = shown_url(url)
        _say_environment(output, about)
        try:
            failed = await _run(suite, output, lines)
        finally:
            if lines and not output.as_json:
                output.rows(("workload", "what", "figures", *_COLUMNS), map(_row, lines))
    if failed:
        raise CommandError(f"failed, for the reasons above: {', '.join(failed)}", ExitCode.FAILED)


async def _run(suite: Suite, output: Output, lines: list[Line]) -> list[str]:
    """Run the workloads and add to ``lines``; the names of those that failed. The others go on without them."""
    from durable.bench.suite import BenchmarkError

    failed = []
    for name in suite.names():
        output.note(f"{name} ...")
        try:
            line = await suite.line(name)
        except BenchmarkError as error:
            sys.stderr.write(f"{error}\n")
            failed.append(name)
            continue
        lines.append(line)
        if output.as_json:
            output.document(_shape(line))
    return failed


def _say_environment(output: Output, about: dict[str, Any]) -> None:
    if output.as_json:
        output.document({"environment": about})
    else:
        output.fields((name, value if isinstance(value, str) else f"{value}") for name, value in about.items())


def _shape(line: Line) -> dict[str, Any]:
    result = line.result
    return {
        "workload": line.workload,
        "title": result.title,
        "each": result.each,
        "runs": line.runs,
        "figures": result.figures,
    }


def _row(line: Line) -> list[str]:
    figures = dict(line.result.figures)
    costs = [figures.pop(name, None) for name in _COLUMNS.values()]
    own = ", ".join(f"{name} {_number(value)}" for name, value in figures.items())
    return [line.workload, line.result.title, own, *("" if cost is None else _number(cost) for cost in costs)]


def _number(value: float) -> str:
    """Three digits that count, and no more than there are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
