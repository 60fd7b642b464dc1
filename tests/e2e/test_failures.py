"""Failures and what code makes of them, on every store: details, handlers, groups, sagas."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import (
    ActivityFailedError,
    FailureDetails,
    OrchestrationCanceledError,
    OrchestrationContext,
    OrchestrationFailedError,
    Saga,
    SubOrchestrationFailedError,
    TaskHub,
)
from durable.core import events as ev
from tests.e2e.histories import replay_strictly, rows_of
from tests.e2e.waiting import until

DEADLINE = 30


def chain(details: FailureDetails | None) -> list[str]:
    """The types of a failure and its causes."""
    return [] if details is None else [details.error_type.rpartition(".")[2], *chain(details.cause)]


async def test_details_tell_the_whole_story_through_child_and_parent(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def charge(amount: int) -> None:
        try:
            raise ConnectionResetError("the line is dead")
        except OSError as error:
            raise ValueError(f"cannot charge {amount}") from error

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> None:
        await charge(7)

    @hub.orchestrator
    async def parent(ctx: OrchestrationContext) -> None:
        await child()

    async with hub.worker():
        handle = await hub.start(parent)
        with pytest.raises(OrchestrationFailedError, match="cannot charge 7") as caught:
            await handle.result(DEADLINE)
        (failed,) = rows_of(await handle.history(), ev.SubOrchestrationInstanceFailed)
        status = await handle.status()
    details = caught.value.details
    expected = ["SubOrchestrationFailedError", "ActivityFailedError", "ValueError", "ConnectionResetError"]
    assert chain(details) == expected
    assert chain(failed.failure) == expected[1:]
    assert status.failure == details
    for kind in (SubOrchestrationFailedError, ActivityFailedError, ValueError, ConnectionError, OSError, "OSError"):
        assert details.is_caused_by(kind), kind
    assert not details.is_caused_by(KeyError)
    assert details.cause is not None
    assert details.cause.cause is not None
    assert details.cause.cause.message == "cannot charge 7"
    for level, line in (
        (details, "await child()"),
        (details.cause, "await charge(7)"),
        (details.cause.cause, "from error"),
    ):
        assert line in (level.stack_trace or ""), line


async def test_try_except_else_finally_run_in_order(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def step(name: str) -> str:
        if name.startswith("bad"):
            raise RuntimeError(name)
        return name

    @hub.orchestrator
    async def careful(ctx: OrchestrationContext) -> list[str]:
        said = []
        for name in ("good", "bad"):
            try:
                said.append(await step(name))
            except ActivityFailedError as error:
                said.append(await step(f"handled {error.details.message}"))
            else:
                said.append(await step("else"))
            finally:
                said.append(await step("finally"))
        try:
            await step("bad again")
        except ActivityFailedError as error:
            try:
                raise LookupError("translated") from error
            except LookupError as translated:
                assert translated.__cause__ is error
                said.append(str(translated))
        return said

    async with hub.worker():
        handle = await hub.start(careful)
        expected = ["good", "else", "finally", "handled bad", "finally", "translated"]
        assert await handle.result(DEADLINE) == expected
        replay_strictly(hub, await handle.history())


async def test_groups_of_errors(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def fails(kind: str) -> None:
        raise {"value": ValueError, "key": KeyError}[kind](kind)

    @hub.orchestrator
    async def child(ctx: OrchestrationContext) -> None:
        raise LookupError("child")

    @hub.orchestrator
    async def grouped(ctx: OrchestrationContext) -> dict[str, Any]:
        found: dict[str, Any] = {}
        gathered = await asyncio.gather(fails("value"), child(), fails("key"), return_exceptions=True)
        found["gather"] = [type(error).__name__ for error in gathered]

        async def both(first: Any, second: Any) -> None:
            async with asyncio.TaskGroup() as group:  # the second fails within the turn in which the first does
                group.create_task(first)
                group.create_task(second)

        async def raises(error: Exception) -> None:
            raise error

        try:
            await both(raises(KeyError("local")), raises(ValueError("local")))
        except* KeyError as keys:
            found["keys"] = len(keys.exceptions)
        except* ValueError as values:
            found["values"] = len(values.exceptions)
        try:
            await both(fails("value"), asyncio.sleep(3600))
        except* ActivityFailedError as failures:
            (error,) = failures.exceptions
            assert isinstance(error, ActivityFailedError)
            found["activity"] = error.details.message
        return found

    async with hub.worker():
        handle = await hub.start(grouped)
        names = ["ActivityFailedError", "SubOrchestrationFailedError", "ActivityFailedError"]
        assert await handle.result(DEADLINE) == {"gather": names, "keys": 1, "values": 1, "activity": "value"}
        replay_strictly(hub, await handle.history())


async def test_a_group_of_errors_that_nobody_handles_is_the_failure(hub_url: str) -> None:
    hub = TaskHub(hub_url)

    @hub.activity
    async def fails() -> None:
        raise ValueError("bad")

    @hub.orchestrator
    async def lets_through(ctx: OrchestrationContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    async with hub.worker():
        with pytest.raises(OrchestrationFailedError, match="unhandled errors in a TaskGroup") as caught:
            await (await hub.start(lets_through)).result(DEADLINE)
    assert caught.value.details.is_caused_by(ExceptionGroup)
    assert "ValueError: bad" in (caught.value.details.stack_trace or "")


# --- sagas ---------------------------------------------------------------------------------------


class Trip:
    """A saga of three bookings. ``log`` is what was done; ``gates`` hold back the steps of their names."""

    def __init__(self, hub_url: str, log: list[str], gates: dict[str, asyncio.Event]) -> None:
        self.hub = TaskHub(hub_url)

        @self.hub.activity
        async def book(what: str) -> str:
            log.append(f"book {what}")
            if what == "flight":
                raise RuntimeError("no seats")
            return what

        @self.hub.activity
        async def undo(what: str) -> None:
            log.append(f"undo {what}")
            if what in gates:
                await gates[what].wait()
            log.append(f"undone {what}")

        @self.hub.orchestrator
        async def trip(ctx: OrchestrationContext, stops: list[str]) -> str:
            async with Saga() as saga:
                for stop in stops:
                    if stop == "wait":
                        await ctx.wait_for_external_event("go on")
                    else:
                        saga.add(undo, await book(stop))
            return "booked"


UNDONE = ["undo car", "undone car", "undo hotel", "undone hotel"]


async def test_a_failing_step_undoes_the_others_in_reverse(hub_url: str) -> None:
    log: list[str] = []
    hub = Trip(hub_url, log, {}).hub
    async with hub.worker():
        handle = await hub.start("trip", ["hotel", "car", "flight"])
        with pytest.raises(OrchestrationFailedError, match="no seats"):
            await handle.result(DEADLINE)
        history = await handle.history()
    assert log == ["book hotel", "book car", "book flight", *UNDONE]
    assert [row.name for row in rows_of(history, ev.TaskScheduled)] == ["book"] * 3 + ["undo"] * 2
    replay_strictly(hub, history)


async def test_undos_go_on_after_a_restart_between_two_of_them(hub_url: str) -> None:
    log: list[str] = []
    gates = {"hotel": asyncio.Event()}
    first = Trip(hub_url, log, gates).hub
    async with first.worker(drain_time=0.05):
        await first.start("trip", ["hotel", "car", "flight"], instance_id="trip")
        await until(lambda: log, lambda seen: seen[-1:] == ["undo hotel"])
    second = Trip(hub_url, log, {}).hub
    async with second.worker():
        with pytest.raises(OrchestrationFailedError, match="no seats"):
            await second.get("trip").result(DEADLINE)
        replay_strictly(second, await second.get("trip").history())
    # The undo that was cut off is delivered again; the one that was done is not.
    assert log == ["book hotel", "book car", "book flight", *UNDONE[:3], *UNDONE[2:]]


async def test_a_cancelled_saga_is_undone(hub_url: str) -> None:
    log: list[str] = []
    hub = Trip(hub_url, log, {}).hub
    async with hub.worker():
        handle = await hub.start("trip", ["hotel", "car", "wait", "flight"])
        await until(lambda: log, lambda seen: seen[-1:] == ["book car"])
        await until(handle.history, lambda h: len(rows_of(h, ev.TaskCompleted)) == 2)
        await handle.cancel("the guest fell ill")
        with pytest.raises(OrchestrationCanceledError, match="the guest fell ill"):
            await handle.result(DEADLINE)
        replay_strictly(hub, await handle.history())
    assert log == ["book hotel", "book car", *UNDONE]


async def test_a_second_cancellation_does_not_cut_the_undos_off(hub_url: str) -> None:
    log: list[str] = []
    gates = {"car": asyncio.Event()}
    hub = Trip(hub_url, log, gates).hub
    async with hub.worker():
        handle = await hub.start("trip", ["hotel", "car", "wait"])
        await until(handle.history, lambda h: len(rows_of(h, ev.TaskCompleted)) == 2)
        await handle.cancel("once")
        await until(lambda: log, lambda seen: seen[-1:] == ["undo car"])
        await handle.cancel("twice")
        await until(handle.history, lambda h: len(rows_of(h, ev.ExecutionCancelRequested)) == 2)
        gates["car"].set()
        with pytest.raises(OrchestrationCanceledError, match="twice"):
            await handle.result(DEADLINE)
    assert log == ["book hotel", "book car", *UNDONE]
