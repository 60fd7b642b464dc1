"""Calls that are made at once become one call; what goes wrong for one of them is not the others' trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from durable.backend import BackendUnavailable
from durable.gathering import Gathering


class Store:
    """Doubles numbers, and remembers how it was asked. ``going_on`` holds up its answers."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.going_on = asyncio.Event()
        self.going_on.set()

    async def double(self, numbers: Sequence[int]) -> Sequence[int]:
        self.asked.append(list(numbers))
        await self.going_on.wait()
        if -1 in numbers:
            raise BackendUnavailable("no answer")
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


async def test_what_is_asked_at_once_is_one_call_in_order() -> None:
    store = Store()
    ask = Gathering(store.double)
    assert await asyncio.gather(*[ask(number) for number in range(4)]) == [0, 2, 4, 6]
    assert await ask(7) == 14
    assert store.asked == [[0, 1, 2, 3], [7]]


async def test_what_is_asked_while_a_call_is_under_way_waits_for_the_next() -> None:
    store = Store()
    ask = Gathering(store.double)
    store.going_on.clear()
    first = ask(1)
    while not store.asked:
        await asyncio.sleep(0)
    later = [ask(2), ask(3)]
    store.going_on.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6]
    assert store.asked == [[1], [2, 3]]


async def test_a_fault_of_one_is_not_that_of_the_others() -> None:
    store = Store()
    ask = Gathering(store.double)
    answers = await asyncio.gather(ask(1), ask(13), ask(2), return_exceptions=True)
    assert (answers[0], answers[2]) == (2, 4)
    assert isinstance(answers[1], ValueError)
    assert await ask(5) == 10


async def test_a_store_that_does_not_answer_is_asked_once_for_all() -> None:
    store = Store()
    ask = Gathering(store.double)
    answers = await asyncio.gather(ask(1), ask(-1), return_exceptions=True)
    assert [type(answer) for answer in answers] == [BackendUnavailable] * 2
    assert store.asked == [[1, -1]]


async def test_an_answer_too_few_is_an_error_and_nobody_waits_for_ever() -> None:
    async def forgetful(numbers: Sequence[int]) -> Sequence[int]:
        return []

    ask = Gathering(forgetful)
    with pytest.raises(ValueError, match="zip"):
        await ask(1)


async def test_who_was_cancelled_holds_up_nobody() -> None:
    store = Store()
    ask = Gathering(store.double)
    gone, kept = ask(1), ask(2)
    gone.cancel()
    assert await kept == 4
    assert store.asked == [[2]]
