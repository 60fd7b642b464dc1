"""Torments workers for a while on the stores that are asked for, and says what came of it.

    python -m tests.chaos [--seconds 300] [--store {sqlite,mongodb,both}] [--seed N]

The time is shared between the stores; what was begun is brought to its end, and judged, after it. MongoDB is the
server that DURABLE_TEST_MONGODB_URL names, or one that runs for this. The exit status is 1 when something was found.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom

from tests.chaos.driver import ChaosRun, Storm
from tests.chaos.report import Report, exit_status, summary
from tests.mongodb_server import fresh_database, server_url

STORES = ("sqlite", "mongodb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the report. Returns the exit status: 0 when every promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="how long it rages, in all (default: %(default)s)")
    parser.add_argument("--store", choices=(*STORES, "both"), default="both")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="default: a random one")
    given = parser.parse_args(arguments)
    stores = STORES if given.store == "both" else (given.store,)
    reports = [_run(store, Storm(given.seed, seconds=given.seconds / len(stores))) for store in stores]
    return exit_status(reports)


def _run(store: str, storm: Storm) -> Report:
    directory = Path(tempfile.mkdtemp(prefix="durable-chaos-"))
    with _url(store, directory) as url:
        report = asyncio.run(ChaosRun(url, directory, storm).run())
    sys.stdout.write(f"{summary([report])}\n")
    if report.findings:
        sys.stdout.write(f"what the workers logged is in {directory}\n")
    else:
        shutil.rmtree(directory)
    sys.stdout.flush()
    return report


@contextmanager
def _url(store: str, directory: Path) -> Iterator[str]:
    if store == "sqlite":
        yield f"sqlite:///{directory / 'chaos.db'}"
    else:
        with server_url() as server, fresh_database(server) as url:
            yield url


if __name__ == "__main__":
    sys.exit(main())
