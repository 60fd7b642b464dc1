"""Payloads: out by orjson, back by annotation, and nothing changed on the way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from durable import PayloadError, PayloadTooLargeError, RegistrationError
from durable.payloads import MAX_PAYLOAD, CallCodec, decode, encode


class Size(Enum):
    SMALL = "s"


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    when: datetime
    sizes: set[Size] = set()


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    deep: bool


def codec_for(annotation: Any) -> CallCodec:
    def function(value):  # type: ignore[no-untyped-def]
        return value

    function.__annotations__ = {"value": annotation, "return": annotation}
    return CallCodec(function, "activity 'function'")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**60),
        (str, "ünïcode \x00 \u2028"),
        (bytes, b"text"),
        (float, 0.1),
        (bool, True),
        (None, None),
        (Decimal, Decimal("1.000")),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(days=3, microseconds=1)),
        (UUID, UUID(int=5)),
        (Path, Path("a/b")),
        (Size, Size.SMALL),
        (Point, Point(1, 2)),
        (Model, Model(when=datetime(2026, 1, 1, tzinfo=UTC), sizes={Size.SMALL})),
        (Pair, Pair(1, "x")),
        (Options, {"deep": True}),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (deque[int], deque([1, 2])),
        (dict[int, Point], {1: Point(3, 4)}),
        (list[Point | None], [Point(1, 2), None]),
        (Any, {"plain": [1, None, "x"]}),
    ],
)
def test_round_trip_as_argument_and_result(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    assert codec.decode_arguments(codec.encode_arguments((value,), {})) == ((value,), {})
    assert codec.decode_arguments(codec.encode_arguments((), {"value": value})) == ((), {"value": value})
    assert codec.decode_result(encode(value, "a value")) == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_plain_json_values_come_back_equal(value: Any) -> None:
    try:
        text = encode(value, "a value")
    except PayloadError as error:
        assert "surrogates" in str(error)  # text that is not valid Unicode has no JSON form
    else:
        assert decode(text) == value


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [1, object()]}, r"\['a'\]\[1\]", "object has no JSON form"),
        ([float("nan")], r"\[0\]", "nan has no JSON form"),
        (float("inf"), "", "inf has no JSON form"),
        ({"n": 2**70}, r"\['n'\]", "64-bit"),
        (Point(1, complex(1)), r"\.y", "complex has no JSON form"),  # type: ignore[arg-type]
        ("\ud800", "", "surrogates"),
        (b"\xff", "", "utf-8"),
    ],
)
def test_what_has_no_json_form_is_named_with_its_path(value: Any, path: str, reason: str) -> None:
    with pytest.raises(PayloadError, match=f"(?s)^the thing.*{path}.*{reason}"):
        encode(value, "the thing")


def test_a_value_above_the_hard_limit_is_refused_with_both_sizes() -> None:
    with pytest.raises(PayloadTooLargeError, match=r"10,485,763 bytes.*limit is 10,485,760"):
        encode("x" * (MAX_PAYLOAD + 1), "the thing")


def test_signatures_of_every_kind() -> None:
    def function(a: int, /, b: str = "b", *rest: float, c: Point, **more: date) -> None: ...

    codec = CallCodec(function, "activity 'function'")
    args, kwargs = (1, "x", 0.5), {"c": Point(1, 2), "d": date(2026, 1, 1)}
    assert codec.decode_arguments(codec.encode_arguments(args, kwargs)) == (args, kwargs)
    with pytest.raises(TypeError, match="missing a required"):
        codec.encode_arguments((1,), {})
    with pytest.raises(PayloadError, match="argument d does not fit"):
        codec.encode_arguments((1,), {"c": Point(1, 2), "d": "no date"})
    with pytest.raises(PayloadError, match="argument rest does not fit"):
        codec.encode_arguments((1, "x", "no float"), {"c": Point(1, 2)})
    with pytest.raises(PayloadError, match="do not fit activity 'function'"):
        codec.decode_arguments("[]")
    with pytest.raises(PayloadError, match="must be a JSON array"):
        codec.decode_arguments('{"a": 1}')
    with pytest.raises(PayloadError, match="must be a JSON array"):
        codec.decode_arguments('"text"')


def test_defaults_are_filled_in_by_the_receiver() -> None:
    def function(a: int, b: int = 7) -> None: ...

    codec = CallCodec(function, "activity 'function'")
    assert codec.encode_arguments((1,), {}) == "[1]"
    assert codec.decode_arguments("[1]") == ((1,), {})
    assert codec.decode_arguments("[1,2]") == ((1, 2), {})


def test_annotations_that_json_cannot_carry_are_refused_with_the_place() -> None:
    class Opaque: ...

    def function(value: int, thing: Opaque) -> None: ...

    function.__annotations__["thing"] = Opaque
    with pytest.raises(RegistrationError, match=r"activity 'function' \(.*test_payloads.py:\d+\).*Opaque"):
        CallCodec(function, "activity 'function'").prepare()

    def unresolved(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RegistrationError, match="Missing"):
        CallCodec(unresolved, "activity 'unresolved'").prepare()
