"""One run of one workload in this process: ``python -m durable.bench.child JSON``; the result is JSON, too.

Rule of this file: a run has a process to itself, so that none inherits the memory or the garbage of another.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict

from durable.bench.measuring import Result
from durable.bench.plan import plan
from durable.bench.stores import Store
from durable.host_loop import host_runner


async def _run(name: str, store: Store, quick: bool) -> Result:
    return await plan(store.kind, quick)[name](store)


def main(task: str) -> None:
    """Run what ``task`` says: ``name``, ``store`` and ``quick``."""
    logging.getLogger("durable").setLevel(logging.ERROR)  # a worker that is stopped in the middle of its work says so
    asked = json.loads(task)
    with host_runner() as runner:
        result = runner.run(_run(asked["name"], Store(**asked["store"]), asked["quick"]))
    sys.stdout.write(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(sys.argv[1])
