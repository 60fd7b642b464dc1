"""Definitions and their registry: what is refused at decoration, and how errors name it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from durable import OrchestrationContext, RegistrationError, Registry, UnknownFunctionError


async def good(ctx: OrchestrationContext, n: int) -> int:
    return n


async def no_context(n: int) -> int:
    return n


async def nothing() -> None: ...


def not_async(ctx: OrchestrationContext) -> None: ...


async def generator(ctx: OrchestrationContext) -> AsyncIterator[int]:
    yield 1


def plain_generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (no_context, "must take the context as its first parameter"),
        (nothing, "must take the context as its first parameter"),
        (not_async, "must be an `async def` function"),
        (generator, "is a generator"),
        (42, "42 is not a function"),
    ],
)
def test_what_cannot_be_an_orchestrator(fn: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message) as caught:
        Registry().orchestrator(fn)
    if callable(fn):
        assert fn.__name__ in str(caught.value)
        assert "test_registry.py" in str(caught.value)


def test_what_cannot_be_an_activity() -> None:
    registry = Registry()
    for fn in (generator, plain_generator):
        with pytest.raises(RegistrationError, match="is a generator"):
            registry.activity(fn)
    with pytest.raises(RegistrationError, match="pass name="):
        registry.activity(lambda: 1)
    with pytest.raises(ValueError, match="longer than zero"):
        registry.activity(timeout=timedelta(0))(good)
    with pytest.raises(RegistrationError, match="printable"):
        registry.activity(name=" x")(good)


def test_a_taken_name_names_both_functions() -> None:
    registry = Registry()
    registry.activity(name="same")(nothing)
    registry.activity(name="same")(nothing)  # the same function again is no conflict
    with pytest.raises(RegistrationError, match=r"'same' of no_context, .*is taken by nothing, "):
        registry.activity(name="same")(no_context)


def test_include_takes_in_a_librarys_definitions() -> None:
    library, registry = Registry(), Registry()
    library.activity(nothing)
    library.orchestrator(good)
    registry.include(library)
    registry.include(library)
    assert registry.find_activity("nothing").fn is nothing
    assert registry.find_orchestrator("good").fn is good
    other = Registry()
    other.activity(name="nothing")(no_context)
    with pytest.raises(RegistrationError, match="'nothing'"):
        registry.include(other)


def test_unknown_names_get_near_ones() -> None:
    registry = Registry()
    registry.orchestrator(good)
    with pytest.raises(UnknownFunctionError, match="no orchestrator is registered as 'goood'; did you mean 'good'"):
        registry.find_orchestrator("goood")
    with pytest.raises(UnknownFunctionError, match="registered: none"):
        registry.find_activity("x")
