"""Promises of ``runnable`` (R1): whatever has something to do is found."""

from __future__ import annotations

from durable.backend import Annotation, Backend, Wakeup
from durable.core.state import RuntimeStatus
from durable.testing.conformance.builders import (
    LATE,
    PARTITIONS,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    new_message,
    runnable_ids,
)
from durable.testing.conformance.fixtures import ConformanceFixtures

ALL = range(PARTITIONS)


class WorkConformance(ConformanceFixtures):
    async def test_pending_instances_are_found_when_they_are_due(self, backend: Backend, other: Backend) -> None:
        await create(backend, Instance("now"), Instance("later", due_at=T0 + 60 * SECOND))
        assert list(await other.runnable(ALL, T0)) == [Wakeup("now", T0)]
        assert not await other.runnable(ALL, T0 - 1)
        both = [Wakeup("later", T0 + 60 * SECOND), Wakeup("now", T0)]
        assert list(await other.runnable(ALL, T0 + 60 * SECOND)) == both

    async def test_busy_instances_are_found_unless_left_out(self, backend: Backend) -> None:
        busy, waiting = Instance("busy"), Instance("waiting")
        await create(backend, busy, waiting)
        await apply(backend, busy.turn(due_at=0), waiting.turn(due_at=T0))
        assert list(await backend.runnable(ALL, T0)) == [Wakeup("busy", 0), Wakeup("waiting", T0)]
        assert list(await backend.runnable(ALL, T0, include_busy=False)) == [Wakeup("waiting", T0)]

    async def test_what_is_due_follows_every_change_in_a_batch(self, backend: Backend, other: Backend) -> None:
        """From and to: nothing to do, something at once, something later."""
        dues = (None, 0, LATE)
        instances = {(old, new): Instance(f"{old}-{new}") for old in dues for new in dues}
        await create(backend, *instances.values())
        await apply(backend, *[one.turn(due_at=old) for (old, _), one in instances.items()])
        await apply(backend, *[one.turn(due_at=new, purge_at=LATE) for (_, new), one in instances.items()])
        found = {wakeup.instance_id: wakeup.due_at for wakeup in await other.runnable(ALL, LATE)}
        assert found == {f"{old}-{new}": new for old, new in instances if new is not None}
        ids = [one.instance_id for one in instances.values()]
        assert list(await other.get(ids)) == [one.record for one in instances.values()]

    async def test_timers_are_found_when_they_are_due(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await apply(backend, instance.turn(due_at=T0 + 100))
        assert await runnable_ids(backend, T0 + 99) == []
        assert await runnable_ids(backend, T0 + 100) == ["a"]
        await apply(backend, instance.turn(due_at=None))
        assert await runnable_ids(backend) == []

    async def test_an_unconsumed_message_makes_runnable(self, backend: Backend, other: Backend) -> None:
        idle, timer, busy = Instance("idle"), Instance("timer"), Instance("busy")
        await create(backend, idle, timer, busy, Instance("due"))
        await apply(backend, idle.turn(), timer.turn(due_at=LATE), busy.turn(due_at=0))
        messages = [
            new_message(f"{one}-{number}", one) for one in ("idle", "timer", "busy", "due") for number in range(2)
        ]
        await backend.send(messages)
        expected = [Wakeup(one, 0) for one in ("busy", "due", "idle", "timer")]
        for include_busy in (True, False):
            assert list(await other.runnable(ALL, T0, include_busy=include_busy)) == expected
        await apply(backend, idle.turn(consumed=["idle-0"]), timer.turn(consumed=["timer-0", "timer-1"], due_at=LATE))
        assert await runnable_ids(backend, T0, include_busy=False) == ["busy", "due", "idle"]
        await apply(backend, idle.turn(consumed=["idle-1"]), busy.turn(consumed=["busy-0", "busy-1"], due_at=0))
        assert await runnable_ids(backend, T0, include_busy=False) == ["due"]

    async def test_a_message_to_an_instance_that_is_not_there_yet_is_found(self, backend: Backend) -> None:
        await backend.send([new_message("m", "child")])
        assert list(await backend.runnable(ALL, T0)) == [Wakeup("child", 0)]

    async def test_terminal_instances_are_never_due(self, backend: Backend) -> None:
        instances = {status: Instance(status.value) for status in RuntimeStatus}
        await create(backend, *instances.values())
        for due_at in (0, T0):
            turns = [instance.turn(status=status, due_at=due_at) for status, instance in instances.items()]
            await apply(backend, *turns)
            assert await runnable_ids(backend) == ["Pending", "Running", "Suspended"]

    async def test_a_message_to_a_terminal_instance_is_found_until_it_is_consumed(
        self, backend: Backend, other: Backend
    ) -> None:
        ended = Instance("ended")
        await create(backend, ended)
        await apply(backend, ended.last_turn())
        messages = [new_message("m", "ended"), new_message("n", "gone")]
        await backend.send(messages)
        for include_busy in (True, False):
            found = await other.runnable(ALL, T0, include_busy=include_busy)
            assert list(found) == [Wakeup("ended", 0), Wakeup("gone", 0)]
        await other.consume(messages, T0)
        assert await runnable_ids(backend) == []

    async def test_an_annotated_instance_stays_runnable(self, backend: Backend) -> None:
        await create(backend, Instance("a"))
        await backend.annotate([Annotation("a", 0, "parked", 1)])
        assert await runnable_ids(backend) == ["a"]

    async def test_only_the_partitions_asked_for(self, backend: Backend) -> None:
        instances = [Instance(f"i{number:02}", partition=number % 4) for number in range(12)]
        await create(backend, *instances)
        busy = instances[:4]
        await apply(backend, *(instance.turn(due_at=0) for instance in busy))
        assert [one.instance_id for one in await backend.runnable([1, 3], T0)] == [
            "i01",
            "i03",
            "i05",
            "i07",
            "i09",
            "i11",
        ]
        assert [one.instance_id for one in await backend.runnable({2}, T0, include_busy=False)] == ["i06", "i10"]
        assert not await backend.runnable([9], LATE)
        messages = [new_message(f"m{number}", f"x{number}") for number in range(8)]
        await backend.send(messages)
        for partition in {message.partition for message in messages} - {0, 1, 2, 3}:
            found = [one.instance_id for one in await backend.runnable([partition], T0)]
            assert found == [message.instance_id for message in messages if message.partition == partition]

    async def test_pages_are_complete_and_unique(self, backend: Backend) -> None:
        instances = [Instance(f"{'aAé_'[number % 4]}{number:02}") for number in range(30)]
        await create(backend, *instances)
        await apply(backend, *(instance.turn(due_at=0) for instance in instances[:10]))
        await apply(backend, *(instance.turn() for instance in instances[10:20]))  # idle
        named = [instance.instance_id for instance in instances]
        await backend.send([new_message(f"m{one}-{number}", one) for one in named[5:15] for number in range(2)])
        expected = sorted(named[:15] + named[20:])
        seen, after = list[str](), None
        while True:
            page = await backend.runnable(ALL, T0, after=after, limit=7)
            assert len(page) <= 7
            assert len(seen) <= len(expected)
            seen += [wakeup.instance_id for wakeup in page]
            if len(page) < 7:
                break
            after = seen[-1]
        assert seen == expected
        assert await runnable_ids(backend, T0, include_busy=False) == sorted(named[5:15] + named[20:])
