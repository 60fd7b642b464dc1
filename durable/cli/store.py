"""The store that a command works on, and how its answer is shown: options that every command has.

Rule of this file: a command that only looks never creates a hub; a mistyped URL must not leave an empty file behind.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

import typer

from durable.backend_url import list_hubs
from durable.cli.exits import CommandError, ExitCode
from durable.cli.output import Output
from durable.environment import hub_location
from durable.hub import TaskHub


@dataclass(frozen=True)
class Store:
    """The options that say which store and hub, and whether the answer is for a script."""

    url: Annotated[str | None, typer.Option(help="The store; else DURABLE_URL, else sqlite:///durable.db.")] = None
    hub: Annotated[str | None, typer.Option(help="The task hub; else DURABLE_HUB, else 'default'.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON: one document, or a line for each row.")] = False

    @property
    def output(self) -> Output:
        """Where the answer goes."""
        return Output(as_json=self.json)

    def location(self) -> str:
        """The URL of the store. Raises CommandError for one that only one process can see."""
        url, _ = hub_location(self.url, self.hub, os.environ)
        if urlsplit(url).scheme == "memory":
            raise CommandError(f"{url} is in the memory of one process; the command line needs a store on disk")
        return url

    @asynccontextmanager
    async def connected(self, *, create: bool = False) -> AsyncIterator[TaskHub]:
        """The hub with a client connected. Raises CommandError when there is none, unless it may be created."""
        url = self.location()
        _, name = hub_location(self.url, self.hub, os.environ)
        hub = TaskHub(url, name=name)
        if not create:
            names = await list_hubs(url)
            if names is not None and name not in names:
                there = f"there are {', '.join(names)}" if names else "there is none"
                raise CommandError(f"no task hub {name!r} in {shown_url(url)}: {there}", ExitCode.NOT_FOUND)
        async with hub:
            yield hub


def shown_url(url: str) -> str:
    """A URL without its password."""
    parts = urlsplit(url)
    user, separator, host = parts.netloc.rpartition("@")
    if not separator or ":" not in user:
        return url
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()
