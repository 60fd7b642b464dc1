"""The page of limits says what the code has: each number in its table, and each setting it names."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from durable import Settings
from durable.core.ids import MAX_INSTANCE_ID
from durable.core.loop import CALLBACK_LIMIT
from durable.core.outstanding import MAX_TASKS
from durable.http.calls import MAX_BODY
from durable.payloads import MAX_PAYLOAD
from durable.worker.live import MAX_ARRIVED
from durable.worker.mailboxes import MAX_MAILBOX

PAGE = Path(__file__).resolve().parents[2] / "docs/limits.md"
MIB = 1024 * 1024


def rows() -> dict[str, list[str]]:
    """The rows of the first table by the name of the limit: default, setting, and the rest."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| **")]
    return {line[0]: line[1:] for line in lines}


def row(beginning: str) -> list[str]:
    (found,) = [cells for name, cells in rows().items() if name.startswith(beginning)]
    return found


@pytest.mark.parametrize(
    ("beginning", "default"),
    [
        ("**Payload**", f"{MAX_PAYLOAD // MIB} MiB"),
        ("**Open tasks**", f"{MAX_TASKS:,}"),
        ("**Requests in one turn**", f"{MAX_TASKS:,}"),
        ("**Callbacks in one turn**", f"{CALLBACK_LIMIT:,}"),
        ("**Messages read ahead**", f"{MAX_MAILBOX:,}"),
        ("**Events taken in by one turn**", f"{MAX_ARRIVED:,}"),
        ("**Instance id**", f"{MAX_INSTANCE_ID} characters"),
        ("**HTTP body**", f"{MAX_BODY // MIB} MiB"),
    ],
)
def test_a_constant_is_on_the_page(beginning: str, default: str) -> None:
    assert row(beginning)[0] == default


def test_a_setting_is_on_the_page_with_its_default() -> None:
    defaults = {field.name: field.default for field in fields(Settings)}
    named = {
        name: cells[0]
        for cells in rows().values()
        for name in re.findall(r"`(\w+)`", cells[1])
        if name != "max_body" and name != "HttpCaller"
    }
    assert named.keys() <= defaults.keys()
    assert {"history_warning", "max_history", "cache_instances", "cache_bytes", "max_activities"} <= named.keys()
    for name in ("history_warning", "max_history", "cache_instances", "max_deliveries", "keep_executions"):
        assert named[name].startswith(f"{defaults[name]:,}"), name
    assert named["cache_bytes"] == f"{Settings().cache_bytes // MIB} MiB"
