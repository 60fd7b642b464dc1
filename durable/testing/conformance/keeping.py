"""Promises of ``expired`` and ``set_hold``, and what ``purge`` makes of a hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from durable.backend import Annotation, Backend
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    LATE,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    inbox_of,
    new_message,
    record_of,
)
from durable.testing.conformance.fixtures import ConformanceFixtures


async def _ended(backend: Backend, *names: str, purge_at: int | None = T0) -> list[Instance]:
    instances = [Instance(name) for name in names]
    await create(backend, *instances)
    await apply(backend, *(one.last_turn(purge_at=purge_at) for one in instances))
    return instances


class KeepingConformance(ConformanceFixtures):
    async def test_what_has_expired_is_named_earliest_first(self, backend: Backend, other: Backend) -> None:
        instances = {f"i{number}": Instance(f"i{number}") for number in range(5)}
        await create(backend, *instances.values())
        times = {"i3": 1, "i0": 2, "i4": 3, "i1": 4}
        await apply(backend, *(instances[name].last_turn(purge_at=T0 + time) for name, time in times.items()))
        await apply(backend, instances["i2"].last_turn())
        assert list(await other.expired(LATE, 10)) == ["i3", "i0", "i4", "i1"]
        assert list(await other.expired(LATE, 2)) == ["i3", "i0"]
        assert list(await other.expired(T0 + 2, 10)) == ["i3", "i0"]
        assert list(await other.expired(T0, 10)) == []
        assert (await record_of(other, "i3")).purge_at == T0 + 1

    async def test_only_terminal_instances_expire(self, backend: Backend) -> None:
        instances = {status: Instance(status.value) for status in RuntimeStatus}
        await create(backend, *instances.values())
        await apply(backend, *(one.turn(status=status, purge_at=T0) for status, one in instances.items()))
        ended = {status.value for status in RuntimeStatus if status.is_terminal}
        assert set(await backend.expired(LATE, 10)) == ended

    async def test_one_that_goes_on_does_not_expire_any_more(self, backend: Backend) -> None:
        [instance] = await _ended(backend, "a")
        await apply(backend, instance.turn(purge_at=None))
        assert list(await backend.expired(LATE, 10)) == []
        assert (await record_of(backend, "a")).purge_at is None

    async def test_the_purged_have_expired(self, backend: Backend, other: Backend) -> None:
        await _ended(backend, *HOSTILE_IDS)
        assert set(await backend.expired(LATE, 100)) == set(HOSTILE_IDS)
        while names := await other.expired(LATE, 10):
            assert await other.purge(names) == len(names)
        assert list(await backend.get(HOSTILE_IDS)) == [None] * len(HOSTILE_IDS)

    # --- hold

    async def test_the_held_are_not_purged_and_do_not_expire(self, backend: Backend, other: Backend) -> None:
        held, _ = await _ended(backend, "held", "free")
        await backend.send([new_message("m", "held")])
        await backend.put_payloads("held", {"k": b"v"})
        assert await other.set_hold("held", "case 7") is True
        assert list(await backend.expired(LATE, 10)) == ["free"]
        assert await backend.purge(["held", "free"]) == 1
        assert await backend.purge(["held"]) == 0
        assert await record_of(other, "held") == replace(held.record, hold="case 7")
        assert len(await other.load("held", "e1")) == 1
        assert await inbox_of(other, "held") == ["m"]
        assert await other.get_payloads("held", ["k"]) == {"k": b"v"}
        assert await other.set_hold("held", None) is True
        assert await record_of(backend, "held") == held.record
        assert list(await backend.expired(LATE, 10)) == ["held"]
        assert await backend.purge(["held"]) == 1

    async def test_a_hold_of_nobody_is_told(self, backend: Backend) -> None:
        assert await backend.set_hold("nobody", "why") is False
        assert await backend.set_hold("nobody", None) is False
        assert list(await backend.get(["nobody"])) == [None]
        await _ended(backend, "gone")
        await backend.purge(["gone"])
        assert await backend.set_hold("gone", "too late") is False

    async def test_a_hold_can_be_set_again_and_changed(self, backend: Backend) -> None:
        await _ended(backend, "a")
        for reason in ("one", "one", "two", None, None):
            assert await backend.set_hold("a", reason) is True
            assert (await record_of(backend, "a")).hold == reason

    async def test_a_hold_survives_whatever_the_instance_does(self, backend: Backend, other: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        assert await other.set_hold("a", "case") is True
        await apply(backend, instance.turn())
        assert await record_of(backend, "a") == replace(instance.record, hold="case")
        await other.annotate([Annotation("a", 1, "stuck", 1)])
        instance.continue_as("e1.1")
        await apply(backend, instance.turn())
        await apply(backend, instance.last_turn(purge_at=T0, hold="not this"))
        assert (await record_of(backend, "a")).hold == "case"
        assert await backend.purge(["a"]) == 0
        await other.set_hold("a", None)
        await apply(backend, instance.turn(hold="nor this"))
        assert (await record_of(backend, "a")).hold is None

    async def test_hostile_reasons_are_only_text(self, backend: Backend) -> None:
        await _ended(backend, "a", "b")
        for reason in HOSTILE_TEXTS:
            assert await backend.set_hold("a", reason) is True
            assert (await record_of(backend, "a")).hold == reason
            assert await backend.purge(["a"]) == 0
        for name in HOSTILE_TEXTS:
            assert await backend.set_hold(name, "x") is (name == "a")
        assert (await record_of(backend, "b")).hold is None

    async def test_of_a_hold_and_a_purge_at_once_one_wins_whole(self, backend: Backend, other: Backend) -> None:
        names = [f"i{number}" for number in range(40)]
        await _ended(backend, *names)
        for name in names:
            await backend.put_payloads(name, {"k": b"v"})
        purges = asyncio.gather(*(backend.purge(names[start : start + 10]) for start in range(0, 40, 10)))
        held = await asyncio.gather(*(other.set_hold(name, "case") for name in names))
        purged = await purges
        assert sum(purged) == held.count(False)
        for name, is_held, record in zip(names, held, await backend.get(names), strict=True):
            assert (record is not None and record.hold == "case") == is_held
            assert len(await backend.load(name, "e1")) == int(is_held)
            assert await backend.get_payloads(name, ["k"]) == ({"k": b"v"} if is_held else {})

    async def test_what_is_held_long_does_not_hide_what_has_expired(self, backend: Backend) -> None:
        await _ended(backend, *(f"held{number}" for number in range(30)), purge_at=T0)
        for number in range(30):
            await backend.set_hold(f"held{number}", "case")
        await _ended(backend, "free", purge_at=T0 + SECOND)
        assert list(await backend.expired(LATE, 5)) == ["free"]
