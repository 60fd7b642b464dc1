"""Workers are killed at any moment, and nothing is lost: on SQLite and on MongoDB."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.driver import ChaosRun, Report

KILLS = int(os.environ.get("DURABLE_CHAOS_KILLS", "50"))
MONGODB_KILLS = int(os.environ.get("DURABLE_CHAOS_KILLS", "25"))  # what is left undone takes the test server longer
SEED = int(os.environ.get("DURABLE_CHAOS_SEED", "0"))
PATIENCE = 45.0  # seconds without any progress: more than a lease and the interval of the workers' whole scans
LIMIT = 240 + 4 * KILLS


async def torment(url: str, directory: Path, capsys: pytest.CaptureFixture[str], kills: int = KILLS) -> None:
    report = await ChaosRun(url, directory, seed=SEED, kills=kills, patience=PATIENCE).run()
    with capsys.disabled():
        print(f"\nchaos on {url.partition(':')[0]}, seed {SEED}: {report}")  # noqa: T201
    assert_kept(report, kills)


def assert_kept(report: Report, kills: int) -> None:
    assert not report.findings, "\n".join(report.findings[:40])
    # The run must have been one: else the promise was not tested.
    assert report.kills >= kills
    assert len(report.acknowledged) >= 2 * kills
    assert report.recoveries > 0
    assert report.repeated > 0


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
async def test_killed_workers_lose_nothing_on_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await torment(f"sqlite:///{tmp_path / 'chaos.db'}", tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.mongodb
@pytest.mark.timeout(LIMIT)
async def test_killed_workers_lose_nothing_on_mongodb(
    mongodb_database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await torment(mongodb_database_url, tmp_path, capsys, MONGODB_KILLS)
