"""Orchestrators of the shape of the examples, whose histories are kept.

As in ``definitions``, their code never changes. They decide what the examples decide; their activities do nothing
outside, and their timers are short.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from durable import (
    ActivityFailedError,
    EntityId,
    EntityOperationFailedError,
    HttpCaller,
    HttpResponse,
    OrchestrationContext,
    Registry,
    RetryPolicy,
    Saga,
    SubOrchestrationFailedError,
)
from durable.httpcall.values import HttpRequest
from tests.golden import definitions
from tests.golden.definitions import echo, fail

registry = Registry()
registry.include(definitions.registry)

SHORT = timedelta(milliseconds=20)


@registry.activity
async def at_least(value: int, bound: int) -> bool:
    return value >= bound


@registry.orchestrator
async def function_chaining(ctx: OrchestrationContext, number: int) -> str:
    lines = await echo([number, number + 1])
    total = await echo(sum(lines))
    return str(await echo(f"invoice {total}"))


@registry.orchestrator
async def write_report(ctx: OrchestrationContext, topic: str, chapters: int) -> list[str]:
    written: list[str] = []
    for number in range(1, chapters + 1):
        ctx.set_custom_status(f"writing chapter {number} of {chapters}")
        written.append(await echo(f"chapter {number} on {topic}"))
    return written


@registry.orchestrator
async def back_up(ctx: OrchestrationContext, files: int) -> int:
    names = await echo([f"file {n}" for n in range(files)])
    limit = asyncio.Semaphore(4)

    async def copy(name: str) -> int:
        async with limit:
            return len(await echo(name))

    total = 0
    for done, size in enumerate(asyncio.as_completed([copy(name) for name in names]), 1):
        total += await size
        ctx.set_custom_status({"copied": done, "of": len(names), "bytes": total})
    return total


@registry.orchestrator
async def monitor(ctx: OrchestrationContext, enough: int, patience: timedelta) -> int | None:
    deadline = ctx.now + patience
    pause, looks = SHORT, 1
    while not await at_least(looks, enough):
        if ctx.now >= deadline:
            await echo("alert")
            return None
        await ctx.create_timer(min(ctx.now + pause, deadline))
        pause = min(2 * pause, 3 * SHORT)
        looks += 1
    return looks


@dataclass
class Answer:
    approved: bool
    by: str


@registry.orchestrator
async def approve(ctx: OrchestrationContext, patience: timedelta) -> str:
    await echo("manager")
    ctx.set_custom_status("waiting for the manager")
    try:
        answer = await ctx.wait_for_external_event("answer", Answer, timeout=patience)
    except TimeoutError:
        await echo("director")
        ctx.set_custom_status("waiting for the director")
        answer = await ctx.wait_for_external_event("answer", Answer)
    return f"{answer.approved} by {answer.by}"


@registry.orchestrator
async def device_provisioning(ctx: OrchestrationContext, device: str) -> str:
    policy = RetryPolicy(max_attempts=3, first_interval=SHORT, backoff=2, jitter=0.5)
    package = await echo.options(retry=policy)(f"firmware for {device}")
    if device == "broken":
        await fail.options(retry=policy)("no answer")
    await echo.options(retry=policy, timeout=timedelta(seconds=30))(package)
    return device


@registry.orchestrator
async def provision_new_devices(ctx: OrchestrationContext, devices: list[str]) -> dict[str, bool]:
    children = [device_provisioning.options(instance_id=f"{ctx.instance_id}:{device}")(device) for device in devices]
    outcomes = await asyncio.gather(*children, return_exceptions=True)
    return {
        device: not isinstance(outcome, SubOrchestrationFailedError)
        for device, outcome in zip(devices, outcomes, strict=True)
    }


@registry.orchestrator
async def check_site(ctx: OrchestrationContext, url: str) -> list[Any]:
    policy = RetryPolicy(max_attempts=2, first_interval=SHORT)
    response = await ctx.call_http("POST", url, json={"check": "all"}, headers={"X-Of": "us"}, timeout=5, retry=policy)
    try:
        await ctx.call_http("GET", "http://down.invalid/", retry=policy, follow_202=False)
    except ActivityFailedError:
        return [response.ok, response.json(), "no answer"]
    return []


class BusySite(HttpCaller):
    """Answers without a network: a POST by 202, each poll of it by 200; nobody is at ``down.invalid``."""

    async def call(self, request: HttpRequest) -> HttpResponse:
        if "down.invalid" in request.url:
            raise ConnectionError("nobody is there")
        if request.method == "POST":
            return HttpResponse(202, {"Location": "/health/1", "Retry-After": "1"})
        return HttpResponse(200, {}, '{"health": "good"}', request.url)


class Level(StrEnum):
    BEGINNER = "beginner"
    ADVANCED = "advanced"


@dataclass
class Student:
    name: str
    level: Level
    passed: set[str]


class Course(BaseModel):
    code: str
    level: Level
    hours: int


@registry.activity
async def find_courses(level: Level, *, most_hours: int) -> list[Course]:
    return [Course(code=f"{level.value}-{hours}", level=level, hours=hours) for hours in range(10, most_hours + 1, 10)]


@registry.orchestrator
async def recommend_courses(
    ctx: OrchestrationContext, student: Student, interests: list[str], *, most_hours: int = 40, limit: int = 3
) -> list[Course]:
    courses = await find_courses(student.level, most_hours=most_hours)
    kept = await asyncio.gather(*(echo(course.code not in student.passed) for course in courses))
    return [course for course, fits in zip(courses, kept, strict=True) if fits][:limit]


@registry.orchestrator
async def eternal_cleanup(ctx: OrchestrationContext, period: timedelta, rounds: int = 0) -> int:
    rounds = await echo(rounds + 1)
    ctx.set_custom_status({"rounds": rounds})
    if await ctx.wait_for_external_event("stop", bool, timeout=period if rounds < 3 else None, default=False):
        return rounds
    ctx.continue_as_new(period, rounds=rounds)


@registry.orchestrator
async def book_trip(ctx: OrchestrationContext, can_pay: bool) -> str:
    try:
        async with Saga() as saga:
            for part in ("hotel", "car", "flight"):
                booking = await echo(part)
                saga.add(echo, f"cancel the {booking}")
            if not can_pay:
                await fail("too much")
            return str(await echo("paid"))
    except ActivityFailedError as error:
        return f"not booked: {error.details.message}"


@registry.entity
class Account:
    balance: int = 100

    def add(self, amount: int) -> int:
        if self.balance + amount < 0:
            raise ValueError("too little")
        self.balance += amount
        return self.balance

    def read(self) -> int:
        return self.balance


@registry.orchestrator
async def transfer(ctx: OrchestrationContext, source: str, target: str, amount: int) -> list[int] | str:
    async with ctx.lock(EntityId("account", source), EntityId("account", target)):
        try:
            left = await ctx.call_entity(Account.add, source, -amount)
        except EntityOperationFailedError as error:
            return f"not moved: {error.details.message}"
        return [left, await ctx.call_entity(Account.add, target, amount)]


@registry.orchestrator
async def balances(ctx: OrchestrationContext, owners: list[str]) -> list[int]:
    """One section after the other, a signal between them, and one entity asked without a lock."""
    found: list[int] = []
    for owner in owners:
        async with ctx.lock(EntityId("account", owner)), asyncio.timeout(3600):
            found.append(await ctx.call_entity(Account.read, owner))
        ctx.signal_entity(Account.add, owner, 5)
    return found + await asyncio.gather(*[ctx.call_entity(Account.read, owner) for owner in owners])
