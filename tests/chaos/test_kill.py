"""Workers are killed at any moment, connections break, and nothing is lost: on SQLite and on MongoDB.

This is the run of ``make chaos``, cut short.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.driver import ChaosRun, Storm
from tests.chaos.pattern_workload import any_job

KILLS = int(os.environ.get("DURABLE_CHAOS_KILLS", "8"))
MONGODB_KILLS = int(os.environ.get("DURABLE_CHAOS_KILLS", "6"))  # the test server is the slower store
JOBS, MONGODB_JOBS = 9, 5  # for a kill
SEED = int(os.environ.get("DURABLE_CHAOS_SEED", "0"))
LIMIT = 240 + 4 * KILLS
LEAST = 27  # one of each kind
KINDS = {any_job(number).name for number in range(LEAST)}


async def torment(url: str, directory: Path, capsys: pytest.CaptureFixture[str], kills: int, jobs: int) -> None:
    report = await ChaosRun(url, directory, Storm(SEED, kills=kills, jobs=jobs, least=LEAST)).run()
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201
    assert not report.findings, "\n".join(report.findings[:40])
    # The run must have been one: else the promise was not tested.
    assert report.kills >= kills
    assert report.jobs.keys() >= KINDS
    assert report.confirmed.keys() >= {"start", "event", "signal", "cancel", "terminate"}
    assert report.deaths["at work"] > 0
    assert report.disturbances.total() > 0


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
async def test_killed_workers_lose_nothing_on_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await torment(f"sqlite:///{tmp_path / 'chaos.db'}", tmp_path, capsys, KILLS, JOBS)


@pytest.mark.slow
@pytest.mark.mongodb
@pytest.mark.timeout(LIMIT)
async def test_killed_workers_lose_nothing_on_mongodb(
    mongodb_database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await torment(mongodb_database_url, tmp_path, capsys, MONGODB_KILLS, MONGODB_JOBS)
