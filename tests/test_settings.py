"""Settings: arguments before environment before defaults, errors that name the variable, and a page that is true."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import RuntimeStatus, Settings, TaskHub, VersionFailure, VersionMatch
from durable.environment import PREFIX, hub_location, parse_duration, read_settings

PAGE = Path(__file__).resolve().parent.parent / "docs/settings.md"


def test_arguments_come_before_the_environment_and_that_before_defaults() -> None:
    environment = {"DURABLE_LEASE_TIME": "5", "DURABLE_PARTITIONS": "32", "HOME": "x"}
    settings = Settings.from_env(environment, partitions=8)
    assert settings == Settings(lease_time=5.0, partitions=8)
    assert Settings.from_env({}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("partitions", " 4 ", 4),
        ("blocked_turn", "inf", math.inf),
        ("drain_time", "0.5", 0.5),
        ("version", "1.2", "1.2"),
        ("version", "", None),
        ("version_match", "strict", VersionMatch.STRICT),
        ("gc_threshold", "0", 0),
        ("queues", "gpu, mail", ("gpu", "mail")),
        ("queues", "", None),
    ],
)
def test_each_type_is_read(name: str, text: str, value: object) -> None:
    assert getattr(Settings.from_env({PREFIX + name.upper(): text}), name) == value


@pytest.mark.parametrize(
    ("variable", "text", "rule"),
    [
        ("DURABLE_PARTITIONS", "many", "it must be a whole number"),
        ("DURABLE_PARTITIONS", "1.5", "it must be a whole number"),
        ("DURABLE_PARTITIONS", "", "it must be a whole number"),
        ("DURABLE_LEASE_TIME", "10s", "it must be a number"),
        ("DURABLE_VERSION_MATCH", "exact", "it must be one of none, strict, current_or_older"),
        ("DURABLE_PARTITION", "4", "is no setting; did you mean DURABLE_PARTITIONS?"),
        ("DURABLE_LEASETIME", "4", "is no setting; did you mean DURABLE_LEASE_TIME?"),
    ],
)
def test_what_cannot_be_read_is_named(variable: str, text: str, rule: str) -> None:
    with pytest.raises(ValueError, match="environment variable") as caught:
        Settings.from_env({variable: text})
    assert f"{variable}={text!r}" in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "blamed"),
    [
        (
            {"DURABLE_LEASE_TIME": "0"},
            "setting lease_time must be greater than zero, not 0.0 (set by DURABLE_LEASE_TIME=",
        ),
        ({"DURABLE_LEASE_TIME": "nan"}, "setting lease_time must be greater than zero, not nan"),
        ({"DURABLE_LEASE_TIME": "inf"}, "setting lease_time must be finite"),
        (
            {"DURABLE_PARTITIONS": "5000"},
            "setting partitions must be at most 4096, not 5000 (set by DURABLE_PARTITIONS=",
        ),
        ({"DURABLE_VERSION_FAILURE": "fail"}, "contradicts version_match 'none'"),
    ],
)
def test_what_makes_no_sense_is_named(environment: Mapping[str, str], blamed: str) -> None:
    with pytest.raises(ValueError, match="setting") as caught:
        Settings.from_env(environment)
    assert blamed in str(caught.value)
    assert all(f"{variable}=" in str(caught.value) for variable in environment)


def test_an_error_of_an_argument_does_not_blame_the_environment() -> None:
    with pytest.raises(ValueError, match="lease_time") as caught:
        Settings.from_env({"DURABLE_LEASE_TIME": "5"}, lease_time=-1)
    assert "environment" not in str(caught.value)


def test_variables_of_others_are_left_alone() -> None:
    others = {"DURABLE_TEST_MONGODB_URL": "x", "DURABLE_CHAOS_KILLS": "9", "DURABLE_URL": "x", "DURABLE_HUB": "y"}
    assert Settings.from_env(others) == Settings()


def test_a_field_of_a_richer_type_is_read() -> None:
    @dataclass
    class More:
        retain: timedelta | Mapping[RuntimeStatus, timedelta] | None = None

    def read(text: str) -> Any:
        return read_settings(More, {"DURABLE_RETAIN": text})["retain"]

    # A local class: its annotations are found by their names in this module.
    assert read("30d") == timedelta(days=30)
    assert read("Completed=7d, Failed=1.5h") == {
        RuntimeStatus.COMPLETED: timedelta(days=7),
        RuntimeStatus.FAILED: timedelta(hours=1.5),
    }
    assert read("") is None
    with pytest.raises(ValueError, match=r"DURABLE_RETAIN='long': a duration is .*; or it must be key=value"):
        read("long")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("90", 90), ("1.5h", 5400), ("30d", 2_592_000), ("2w", 1_209_600), ("5 m", 300)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "-5s", "5y", "nan", "1e3s", "99999999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(text)


def test_where_a_hub_is() -> None:
    there = {"DURABLE_URL": "sqlite:///there.db", "DURABLE_HUB": "shop"}
    assert hub_location(None, None, {}) == ("sqlite:///durable.db", "default")
    assert hub_location(None, None, {"DURABLE_URL": "", "DURABLE_HUB": ""}) == ("sqlite:///durable.db", "default")
    assert hub_location(None, None, there) == ("sqlite:///there.db", "shop")
    assert hub_location("memory://", "mine", there) == ("memory://", "mine")
    with pytest.raises(ValueError, match="environment variable DURABLE_HUB='a b': task hub name"):
        hub_location(None, None, {"DURABLE_HUB": "a b"})


async def test_a_hub_takes_them_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DURABLE_URL", f"sqlite:///{tmp_path}/there.db")
    monkeypatch.setenv("DURABLE_HUB", "shop")
    monkeypatch.setenv("DURABLE_PARTITIONS", "3")
    async with TaskHub() as hub:
        assert (hub.name, hub.settings.partitions) == ("shop", 3)
        assert (tmp_path / "there.db").exists()
    assert TaskHub("memory://", name="mine", settings=Settings()).settings.partitions == 16


def test_a_strict_worker_may_fail_what_does_not_match() -> None:
    assert Settings(version_match=VersionMatch.STRICT, version_failure=VersionFailure.FAIL)


# --- the page


def documented_fields() -> Iterator[tuple[str, str, str]]:
    """Name, default and text of each field, as the source has them."""
    (cls,) = [node for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef)]
    for field, text in zip(cls.body, cls.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert field.value is not None
            assert isinstance(text, ast.Expr), f"{field.target.id} has no text"
            assert isinstance(text.value, ast.Constant)
            default = ast.unparse(field.value).replace("(os.cpu_count() or 1)", "CPUs")
            if "." in default and not default.replace(".", "").isdigit():
                default = default.rpartition(".")[2].lower()  # a member of an enum
            yield field.target.id, default, " ".join(str(text.value.value).replace("``", "`").split())


def test_the_page_says_what_the_settings_are() -> None:
    expected = [
        f"| `{name}` | `{PREFIX}{name.upper()}` | `{default}` | {text} |" for name, default, text in documented_fields()
    ]
    assert [name for name, _, _ in documented_fields()] == [field.name for field in fields(Settings)]
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row.startswith("| `TaskHub(")] == expected
