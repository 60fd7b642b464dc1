"""Sub-orchestrations: provision one device in several steps, and many devices side by side.

python examples/device_provisioning.py

What survives a crash: each device is an instance with a history of its own, so every step that is done stays done,
and so do the tries of a retry policy and the pauses between them. The parent waits in the store.
"""

import asyncio
import os
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from durable import OrchestrationContext, RetryPolicy, SubOrchestrationFailedError, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///device_provisioning.db"))

PATIENT = RetryPolicy(max_attempts=3, first_interval=timedelta(seconds=0.2), backoff=2, non_retryable=LookupError)
"""For all steps: three tries, 0.2 and 0.4 seconds apart; an unknown device is not tried again."""

installs: Counter[str] = Counter()  # for the simulated trouble below


@dataclass
class Report:
    provisioned: list[str]
    failed: dict[str, str]


@hub.activity(retry=PATIENT)
async def make_package(device: str) -> str:
    return f"firmware for {device}"


@hub.activity(retry=PATIENT)
async def install(device: str, package: str) -> None:
    installs[device] += 1
    print(f"  {device}: install {package}, try {installs[device]}", flush=True)
    if device == "unknown":
        raise LookupError(f"no device is called {device!r}")
    if device == "camera-2" and installs[device] == 1:
        raise ConnectionError("the device did not answer")


@hub.activity(retry=PATIENT)
async def activate(device: str) -> None:
    print(f"  {device}: active", flush=True)


@hub.orchestrator
async def device_provisioning(ctx: OrchestrationContext, device: str) -> str:
    package = await make_package(device)
    await install(device, package)
    await activate(device)
    return device


@hub.orchestrator
async def provision_new_devices(ctx: OrchestrationContext, devices: list[str]) -> Report:
    children = [device_provisioning.options(instance_id=f"{ctx.instance_id}:{device}")(device) for device in devices]
    outcomes = await asyncio.gather(*children, return_exceptions=True)
    report = Report([], {})
    for device, outcome in zip(devices, outcomes, strict=True):
        match outcome:
            case str():
                report.provisioned.append(outcome)
            case SubOrchestrationFailedError():
                report.failed[device] = str(outcome.details.message)
            case _:
                raise outcome  # a cancellation is not ours to report
    return report


async def main() -> bool:
    devices = ["camera-1", "camera-2", "lamp-1", "unknown", "lamp-2"]
    async with hub.worker():
        handle = await hub.start(provision_new_devices, devices)
        report = await handle.result(timeout=30)
        children = [child async for child in hub.query(id_prefix=f"{handle.instance_id}:")]
        for child in sorted(children, key=lambda child: child.instance_id):
            print(f"{child.instance_id}: {child.runtime_status}")
    print(report)
    return report.provisioned == ["camera-1", "camera-2", "lamp-1", "lamp-2"] and list(report.failed) == ["unknown"]


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
