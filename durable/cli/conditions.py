"""Conditions: which instances a command is about. The same options wherever several are meant."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from durable.cli.exits import CommandError
from durable.cli.values import read_json, read_tags, read_time
from durable.core.state import RuntimeStatus


@dataclass(frozen=True)
class Conditions:
    """The options that choose instances."""

    status: Annotated[list[str] | None, typer.Option(help="Status such as Failed; may be repeated.")] = None
    name: Annotated[str | None, typer.Option(help="Name of the orchestrator.")] = None
    prefix: Annotated[str | None, typer.Option(help="Beginning of the instance id.")] = None
    created_from: Annotated[str | None, typer.Option(help="Created then or later: a time, or 2h for 2 h ago.")] = None
    created_to: Annotated[str | None, typer.Option(help="Created before then: a time, or 30d for 30 days ago.")] = None
    updated_from: Annotated[str | None, typer.Option(help="Changed then or later.")] = None
    updated_to: Annotated[str | None, typer.Option(help="Changed before then.")] = None
    tag: Annotated[list[str] | None, typer.Option(help="Tag key=value; may be repeated.")] = None
    custom_status: Annotated[str | None, typer.Option(help="Custom status, as JSON.")] = None

    @property
    def given(self) -> bool:
        """Whether there is any condition at all."""
        return any(getattr(self, field.name) for field in fields(self))

    def as_query(self) -> dict[str, Any]:
        """The arguments for ``TaskHub.query`` and ``count``. Raises CommandError naming a value that is not right."""
        query: dict[str, Any] = {}
        if self.status:
            query["status"] = [_status(text) for text in self.status]
        if self.name is not None:
            query["name"] = self.name
        if self.prefix is not None:
            query["id_prefix"] = self.prefix
        for key in ("created", "updated"):
            option = f"--{key}"
            earliest = read_time(f"{option}-from", getattr(self, f"{key}_from"), sign=-1)
            latest = read_time(f"{option}-to", getattr(self, f"{key}_to"), sign=-1)
            if earliest or latest:
                query[f"{key}_between"] = (earliest, latest)
        if self.tag:
            query["tags"] = read_tags("--tag", self.tag)
        if self.custom_status is not None:
            query["custom_status"] = read_json("--custom-status", self.custom_status)
        return query


def _status(text: str) -> RuntimeStatus:
    for status in RuntimeStatus:
        if status.value.casefold() == text.casefold():
            return status
    raise CommandError(f"--status {text!r} is no status; there are {', '.join(RuntimeStatus)}")
