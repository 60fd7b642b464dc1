"""``durable worker``: run a hub of the user's in a process of its own."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from durable.cli.exits import ExitCode
from durable.cli.groups import add_commands
from durable.cli.loading import load_hub
from durable.serving import Stopped


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add_commands(app, {"worker": worker})


async def worker(
    target: Annotated[str, typer.Argument(metavar="MODULE:ATTRIBUTE", help="The TaskHub, as in orders.main:hub.")],
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", help="An activity queue to serve, in place of all that the hub has; may be repeated."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: restart when a Python file changes.")
    ] = False,
) -> ExitCode:
    """Run the instances of a hub until SIGTERM or SIGINT (Ctrl-C).

    Then it stops gracefully: what runs may end, for the setting drain_time at most. A second signal stops it at once.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if reload:
        from durable.cli.reloading import supervise

        queues = [f"--queue={name}" for name in queue or ()]
        return await supervise([sys.executable, "-m", "durable.cli", "worker", target, *queues], os.getcwd())
    hub = load_hub(target)
    try:
        await hub.run_worker(**({"queues": tuple(queue)} if queue else {}))
    except Stopped:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(ExitCode.FAILED)  # threads of activities cannot be stopped, and the interpreter would wait for them
    return ExitCode.OK
