"""Output: tables for people, tab-separated lines for pipes, JSON for scripts.

Rule of this file: colours, boxes and cut-off text are for terminals only. Text from a store is shown, never obeyed:
control characters in it come out as escapes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {
    "Completed": "green",
    "Failed": "red",
    "Terminated": "red",
    "Canceled": "yellow",
    "Suspended": "yellow",
    "Running": "cyan",
    "ok": "green",
    "degraded": "yellow",
    "down": "red",
}
_SHORT = {"#", "status", "created", "updated", "started", "eventtype", "timestamp"}
"""Columns whose text is not folded into several lines."""


class Output:
    """Prints the answer of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.for_people = not as_json and sys.stdout.isatty()

    def document(self, value: Any) -> None:
        """One JSON document on a line of its own."""
        self._line(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode())

    def say(self, text: str, **shape: Any) -> None:
        """That something was done: ``text``, or for scripts the fields of ``shape``."""
        if self.as_json:
            self.document(shape)
        else:
            self._line(plain(text))

    def note(self, text: str) -> None:
        """Something that is not part of the answer: on stderr, for people only."""
        if self.for_people:
            sys.stderr.write(f"{text}\n")

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table. In pipes: a line with the columns' names, then a line a row, separated by tabs."""
        if self.for_people:
            self.console().print(table_of(columns, rows))
            return
        self.row(columns)
        for row in rows:
            self.row(row)

    def row(self, cells: Iterable[Any]) -> None:
        """A line of cells, separated by tabs."""
        self._line("\t".join(map(cell_text, cells)))

    def fields(self, fields: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one a line; those without a value are left out."""
        shown = [(name, cell) for name, cell in fields if cell is not None and cell != ""]
        if self.for_people:
            self.console().print(fields_table(shown))
            return
        for name, cell in shown:
            self.row((name, cell))

    def console(self) -> Console:
        """The terminal. It honours NO_COLOR and TERM=dumb by itself."""
        from rich.console import Console

        return Console(highlight=False)

    @staticmethod
    def _line(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def plain(text: str) -> str:
    """``text`` with control characters as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cell_text(cell: Any) -> str:
    """A cell as text: nothing for None, JSON for what is not text."""
    if cell is None:
        return ""
    return plain(cell if isinstance(cell, str) else orjson.dumps(cell, option=orjson.OPT_NON_STR_KEYS).decode())


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold", no_wrap=column.casefold() in _SHORT)
    for row in rows:
        table.add_row(*(Text(text, style=_COLOURS.get(text, "")) for text in map(cell_text, row)))
    return table


def fields_table(fields: Iterable[tuple[str, Any]]) -> Table:
    """Names and values for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, cell in fields:
        text = cell_text(cell)
        table.add_row(Text(name, style="bold"), Text(text, style=_COLOURS.get(text, "")))
    return table
