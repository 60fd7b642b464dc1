"""A value over the limit is refused where it is made, and nothing else is lost; one of just that size goes through."""

from __future__ import annotations

from typing import Any

import pytest

from durable import (
    ActivityContext,
    ActivityFailedError,
    EntityId,
    EntityOperationFailedError,
    InstanceNotFoundError,
    OrchestrationContext,
    OrchestrationFailedError,
    PayloadTooLargeError,
    Registry,
    TaskHub,
)
from durable.payloads import MAX_PAYLOAD

DEADLINE = 60
LARGEST = "x" * (MAX_PAYLOAD - 2)  # with its quotes it has as many bytes as may be
TOO_LARGE = LARGEST + "x"
SIZES = f"has {MAX_PAYLOAD + 1:,} bytes as JSON; the limit is {MAX_PAYLOAD:,}"
PROFILE = EntityId("profile", "ann")

registry = Registry()


@registry.activity
async def give(size: int) -> str:
    return "x" * size


@registry.activity
async def take(text: str) -> int:
    return len(text)


@registry.activity
async def beat() -> None:
    ActivityContext.current().heartbeat(TOO_LARGE)


@registry.entity
class Profile:
    text: str = ""

    def put(self, size: int) -> int:
        self.text = "x" * size
        return size

    def write(self, text: str) -> None:
        self.text = text

    def show(self, size: int) -> str:
        return self.text + "x" * size

    def length(self) -> int:
        return len(self.text)


@registry.orchestrator
async def result_of_activity(ctx: OrchestrationContext) -> str:
    await give(len(TOO_LARGE))
    return ""


@registry.orchestrator
async def result_of_orchestrator(ctx: OrchestrationContext) -> str:
    return TOO_LARGE


@registry.orchestrator
async def child_that_returns_too_much(ctx: OrchestrationContext) -> str:
    result: str = await result_of_orchestrator()
    return result


@registry.orchestrator
async def argument_of_activity(ctx: OrchestrationContext) -> int:
    return await take(TOO_LARGE)


@registry.orchestrator
async def argument_of_child(ctx: OrchestrationContext) -> Any:
    return await echo(TOO_LARGE)


@registry.orchestrator
async def argument_of_the_next_execution(ctx: OrchestrationContext, text: str = "") -> None:
    ctx.continue_as_new(TOO_LARGE)


@registry.orchestrator
async def event_to_another(ctx: OrchestrationContext) -> None:
    ctx.send_event("another", "news", TOO_LARGE)


@registry.orchestrator
async def signal(ctx: OrchestrationContext) -> None:
    ctx.signal_entity(Profile.write, "ann", TOO_LARGE)


@registry.orchestrator
async def custom_status(ctx: OrchestrationContext) -> None:
    ctx.set_custom_status(TOO_LARGE)


@registry.orchestrator
async def heartbeat(ctx: OrchestrationContext) -> None:
    await beat()


@registry.orchestrator
async def echo(ctx: OrchestrationContext, text: str) -> str:
    return text


@registry.orchestrator
async def carries_on(ctx: OrchestrationContext) -> list[str]:
    """Meets the limit at each call, and goes on."""
    met = []
    for attempt in (lambda: give(len(TOO_LARGE)), lambda: ctx.call_entity(Profile.put, "ann", len(TOO_LARGE))):
        try:
            await attempt()
        except (ActivityFailedError, EntityOperationFailedError) as error:
            met.append(error.details.error_type.rpartition(".")[2])
    try:
        ctx.set_custom_status(TOO_LARGE)
    except PayloadTooLargeError as refused:
        met.append(type(refused).__name__)
    ctx.set_custom_status("small")
    return met


@registry.orchestrator
async def carries_the_largest(ctx: OrchestrationContext, text: str) -> str:
    event = await ctx.wait_for_external_event("news", str)
    given = await give(await take(text))
    ctx.set_custom_status(given)
    assert await ctx.call_entity(Profile.put, "ann", len(event) - len('{"text":""}') + 2) > 0
    return given


def make_hub(hub_url: str) -> TaskHub:
    hub = TaskHub(hub_url)
    hub.include(registry)
    return hub


@pytest.mark.parametrize(
    ("orchestrator", "what"),
    [
        (result_of_activity, "the result of activity 'give'"),
        (result_of_orchestrator, "the result of orchestrator 'result_of_orchestrator'"),
        (child_that_returns_too_much, "the result of orchestrator 'result_of_orchestrator'"),
        (argument_of_activity, "activity 'take'"),
        (argument_of_child, "orchestrator 'echo'"),
        (argument_of_the_next_execution, "orchestrator 'argument_of_the_next_execution'"),
        (event_to_another, "the data of event 'news'"),
        (signal, "operation 'write' of entity 'profile'"),
        (custom_status, "the custom status"),
        (heartbeat, "the heartbeat of activity 'beat'"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_the_instance_fails_where_the_value_is_made(hub_url: str, orchestrator: Any, what: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(orchestrator)
        with pytest.raises(OrchestrationFailedError) as failed:
            await handle.result(DEADLINE)
        assert failed.value.details.is_caused_by(PayloadTooLargeError)
        message = str(failed.value)
        assert what in message
        assert SIZES.split(" bytes")[1] in message
        assert (await handle.status()).problem is None


async def test_code_that_meets_the_limit_can_go_on(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(carries_on)
        assert await handle.result(DEADLINE) == ["PayloadTooLargeError"] * 3
        assert (await handle.status()).custom_status == "small"
        assert await hub.call_entity(Profile.length, "ann") == 0


async def test_clients_are_told_at_once_and_nothing_is_sent(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        with pytest.raises(PayloadTooLargeError):
            await hub.start(echo, TOO_LARGE, instance_id="refused")
        with pytest.raises(InstanceNotFoundError):
            await hub.get("refused").status()
        handle = await hub.start(carries_the_largest, "")
        with pytest.raises(PayloadTooLargeError, match=SIZES):
            await handle.raise_event("news", TOO_LARGE)
        with pytest.raises(PayloadTooLargeError, match=SIZES):
            await handle.terminate(TOO_LARGE)
        with pytest.raises(PayloadTooLargeError):
            await hub.signal_entity(Profile.write, "ann", TOO_LARGE)
        assert [type(event).__name__ for event in await handle.history()][-1] == "OrchestratorCompleted"
        assert (await handle.status()).runtime_status == "Running"
        await handle.terminate("done")


async def test_an_entity_keeps_the_state_that_it_had(hub_url: str) -> None:
    hub = make_hub(hub_url)
    async with hub.worker():
        assert await hub.call_entity(Profile.put, "ann", 5) == 5
        for operation in (Profile.put, Profile.show):
            with pytest.raises(OrchestrationFailedError, match="EntityOperationFailedError") as failed:
                await hub.call_entity(operation, "ann", len(TOO_LARGE))
            assert failed.value.details.is_caused_by(PayloadTooLargeError)
        await hub.signal_entity(Profile.put, "ann", len(TOO_LARGE))
        assert await hub.call_entity(Profile.length, "ann") == 5


async def test_values_of_the_largest_size_go_through_and_come_back_from_the_store(hub_url: str) -> None:
    hub = make_hub(hub_url)
    text = LARGEST[:-2]  # within the list of arguments
    async with hub:
        handle = await hub.start(carries_the_largest, text)
        await handle.raise_event("news", LARGEST)
    async with hub.worker():
        assert await hub.get(handle.instance_id).result(DEADLINE) == text
        assert (await hub.get(handle.instance_id).status()).custom_status == text
        assert await hub.call_entity(Profile.length, "ann") == MAX_PAYLOAD - len('{"text":""}')


async def test_two_workers_hand_the_largest_values_to_each_other(hub_url: str) -> None:
    """What one wrote, another loads: the reference in history is followed."""
    hub = make_hub(hub_url)
    async with hub.worker():
        handle = await hub.start(carries_the_largest, LARGEST[:-2])
        await handle.wait_for_start(DEADLINE)
    async with hub.worker():
        await handle.raise_event("news", LARGEST)
        assert len(await hub.get(handle.instance_id).result(DEADLINE)) == len(LARGEST) - 2
