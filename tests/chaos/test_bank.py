"""Workers of a bank are killed at any moment, and its sum is kept: on SQLite and on MongoDB."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from pathlib import Path
from random import Random

import pytest

from durable import EntityId, InstanceHandle, TaskHub
from tests.chaos.bank import OWNERS, START, Account, batch, make_hub

KILLS = int(os.environ.get("DURABLE_CHAOS_BANK_KILLS", "3"))
SEED = int(os.environ.get("DURABLE_CHAOS_SEED", "0"))
LIMIT = 120 + 5 * KILLS
ROOT = Path(__file__).resolve().parent.parent.parent


async def start_worker(url: str) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.chaos.bank", url, cwd=ROOT)


async def kill_workers(url: str, dice: Random, workers: list[Process], done: asyncio.Event) -> int:
    """Kill one worker after the other and replace it, until all is done; at least KILLS times."""
    kills = 0
    while kills < KILLS or not done.is_set():
        await asyncio.sleep(dice.uniform(0.2, 1.2))
        if kills >= KILLS:
            continue  # let the rest be finished in peace
        victim = workers.pop(dice.randrange(len(workers)))
        victim.kill()
        await victim.wait()
        kills += 1
        workers.append(await start_worker(url))
    return kills


def some_transfers(dice: Random) -> list[tuple[str, str, int]]:
    return [(*dice.sample(OWNERS, 2), dice.randrange(10, 400)) for _ in range(dice.randrange(1, 4))]  # type: ignore[misc]


async def run_bank(url: str) -> None:
    dice = Random(SEED)
    hub = make_hub(url)
    async with hub:
        workers = [await start_worker(url) for _ in range(2)]
        done = asyncio.Event()
        try:
            killing = asyncio.create_task(kill_workers(url, dice, workers, done))
            handles: list[InstanceHandle[int]] = []
            for _ in range(2 * KILLS):
                handles.append(await hub.start(batch, some_transfers(dice)))
                await asyncio.sleep(dice.uniform(0.0, 0.3))
            moved = [await handle.result(LIMIT) for handle in handles]
            done.set()
            assert await killing >= KILLS
            assert sum(map(bool, moved)) > KILLS / 2
            await judge(hub)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.kill()
                await worker.wait()


async def judge(hub: TaskHub) -> None:
    """No money is made or lost, and no account is left locked: each answers a call from outside."""
    async with asyncio.timeout(60):
        balances = [await hub.call_entity(Account.read, owner) for owner in OWNERS]
        assert min(balances) >= 0
        while True:
            bank = await hub.read_entity(EntityId("account", "bank"))
            if bank is not None and sum(balances) + bank.state.balance == START * (len(OWNERS) + 1):
                return
            await asyncio.sleep(0.2)  # the last fees are on their way


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 90)
async def test_the_sum_is_kept_on_sqlite(tmp_path: Path) -> None:
    await run_bank(f"sqlite:///{tmp_path / 'bank.db'}")


@pytest.mark.slow
@pytest.mark.mongodb
@pytest.mark.timeout(LIMIT + 90)
async def test_the_sum_is_kept_on_mongodb(mongodb_database_url: str) -> None:
    await run_bank(mongodb_database_url)
