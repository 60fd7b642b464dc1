"""The command ``durable``: workers, instances and hubs from a shell.

Rule of this package: a command parses, calls what the client offers, and shows the answer; what it does is in the hub.
Whatever is slow to import (rich, watchfiles, drivers) is imported where it is used: ``durable --help`` must be quick.
"""

from __future__ import annotations

from durable.cli.exits import is_of_the_extra, report


def main() -> int:
    """Run the command line and return its exit code (docs/cli.md lists them)."""
    try:
        from durable.cli.app import run
    except ModuleNotFoundError as missing:
        if not is_of_the_extra(missing):
            raise
        return report(missing, debug=False)
    return run()
