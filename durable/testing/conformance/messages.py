"""Promises of ``send``, ``receive`` and ``consume`` (R2): each message arrives once, however often it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from durable.backend import Backend
from durable.core.events import TaskCompleted
from durable.testing.conformance.builders import (
    HOSTILE_IDS,
    LATE,
    SECOND,
    T0,
    Instance,
    apply,
    create,
    every_event,
    inbox_of,
    new_message,
)
from durable.testing.conformance.fixtures import ConformanceFixtures, Handles


class MessageConformance(ConformanceFixtures):
    async def test_messages_come_by_time_then_id(self, backend: Backend, other: Backend) -> None:
        await create(backend, Instance("a"), Instance("b"))
        late = new_message("1", "a", sent_at=T0 + 1)
        ties = [new_message(one, "a" if number % 2 else "b") for number, one in enumerate(["c", "B", "é", "_", "b"])]
        early = new_message("z", "b", sent_at=T0 - 1)
        await backend.send([late, *ties, early])
        expected = [early, *sorted(ties, key=lambda message: message.message_id), late]
        assert list(await other.receive(["a", "b"])) == expected
        assert list(await other.receive(["b", "nobody"])) == [one for one in expected if one.instance_id == "b"]
        assert not await other.receive(["nobody"])

    async def test_a_limit_gives_the_first_messages_of_all(self, backend: Backend, other: Backend) -> None:
        await create(backend, Instance("a"), Instance("b"))
        sent = [new_message(f"m{number}", "ab"[number % 2], sent_at=T0 + number) for number in range(7)]
        await backend.send(sent[::-1])
        for limit in (1, 2, 6, 7, 8):
            assert list(await other.receive(["a", "b"], limit)) == sent[:limit]
        assert list(await other.receive(["a"], 2)) == [sent[0], sent[2]]
        await backend.consume(sent[:1], T0 + 9)
        assert list(await other.receive(["a"], 2)) == [sent[2], sent[4]]

    async def test_receiving_does_not_consume(self, backend: Backend, other: Backend) -> None:
        await backend.send([new_message("m", "a")])
        for reader in (backend, other, backend):
            assert await inbox_of(reader, "a") == ["m"]

    async def test_a_message_sent_again_changes_nothing(self, backend: Backend, other: Backend) -> None:
        first = new_message("m", "a")
        await backend.send([first])
        again = replace(first, sent_at=T0 + 5, event=TaskCompleted(T0, 2, '"other"'))
        await other.send([again, new_message("n", "a", sent_at=T0 + 1), again])
        await backend.send([first])
        assert [one for one in await backend.receive(["a"]) if one.message_id == "m"] == [first]
        assert await inbox_of(backend, "a") == ["m", "n"]

    async def test_a_consumed_message_never_comes_back(
        self, handles: Handles, backend: Backend, other: Backend
    ) -> None:
        instance = Instance("a")
        await create(backend, instance)
        messages = [new_message("m", "a"), new_message("n", "a")]
        await backend.send(messages)
        await apply(backend, instance.turn(consumed=["m"]))
        await other.send(messages)
        assert await inbox_of(backend, "a") == ["n"]
        await backend.close()
        again = await handles.open()
        await again.send(messages)
        sender = Instance("sender")
        await apply(again, sender.turn(create=True, messages=messages))
        assert await inbox_of(again, "a") == ["n"]

    async def test_an_answer_names_the_execution_that_asked(self, backend: Backend, other: Backend) -> None:
        for_one = [replace(new_message(f"m{one}", "a"), execution_id=one) for one in ("", "e1.3", "'$gt")]
        for_any = new_message("z", "a")
        await backend.send([*for_one, for_any])
        assert sorted(await other.receive(["a"]), key=lambda message: message.message_id) == [
            *sorted(for_one, key=lambda message: message.message_id),
            for_any,
        ]

    async def test_a_message_that_is_marked_as_consumed_never_comes_back(
        self, backend: Backend, other: Backend
    ) -> None:
        messages = [new_message(f"m{number}", one) for number, one in enumerate(["a", "a", "b", "nobody"])]
        await create(backend, Instance("a"), Instance("b"))
        await backend.send(messages)
        await other.consume([messages[0], messages[2], messages[3]], T0)
        await backend.send(messages)
        assert await inbox_of(backend, "a", "b", "nobody") == ["m1"]

    async def test_marking_as_consumed_again_changes_nothing(self, backend: Backend, other: Backend) -> None:
        messages = [new_message("m", "a"), new_message("n", "a")]
        await backend.send(messages)
        await backend.consume(messages[:1], T0)
        await other.consume(messages[:1], LATE)
        assert await backend.sweep(T0 + SECOND) == 1  # as old as when it was marked first
        assert await inbox_of(backend, "a") == ["n"]

    async def test_marking_a_message_that_is_not_there_is_nothing(self, backend: Backend) -> None:
        message = new_message("m", "a")
        await backend.consume([message], T0)
        await backend.send([message])
        assert list(await backend.receive(["a"])) == [message]

    async def test_a_message_may_come_before_its_instance(self, backend: Backend) -> None:
        await backend.send([new_message("m", "a")])
        await create(backend, Instance("a"))
        assert await inbox_of(backend, "a") == ["m"]

    async def test_concurrent_senders_of_the_same_messages(self, backend: Backend, other: Backend) -> None:
        messages = [new_message(f"m{number:02}", f"i{number % 3}") for number in range(60)]
        await asyncio.gather(
            backend.send(messages), other.send(messages[::-1]), *(other.send([message]) for message in messages[:10])
        )
        assert list(await backend.receive(["i0", "i1", "i2"])) == messages

    async def test_of_two_messages_of_one_id_in_a_batch_the_first_counts(self, backend: Backend) -> None:
        first, second = new_message("m", "a"), replace(new_message("m", "a"), event=TaskCompleted(T0, 7, "7"))
        await backend.send([first, new_message("n", "a"), second])
        assert list(await backend.receive(["a"])) == [first, new_message("n", "a")]

    async def test_every_kind_of_event_travels(self, backend: Backend) -> None:
        messages = [new_message(f"m{number:04}", "a", event=event) for number, event in enumerate(every_event())]
        await backend.send(messages)
        assert list(await backend.receive(["a"])) == messages

    async def test_a_large_message(self, backend: Backend) -> None:
        message = new_message("m", "a", event=TaskCompleted(T0, 1, '"' + "x" * 5_000_000 + '"'))
        await backend.send([message])
        assert list(await backend.receive(["a"])) == [message]

    async def test_hostile_message_ids_are_only_text(self, backend: Backend) -> None:
        instance = Instance("a")
        await create(backend, instance)
        await backend.send([new_message(one, "a") for one in HOSTILE_IDS])
        assert await inbox_of(backend, "a") == sorted(HOSTILE_IDS)
        await apply(backend, instance.turn(consumed=["%", '{"$gt": ""}']))
        assert await inbox_of(backend, "a") == sorted({*HOSTILE_IDS} - {"%", '{"$gt": ""}'})
