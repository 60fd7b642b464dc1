"""Finds the programs in Markdown files and runs them.

A ``python`` block is a program. An HTML comment on the lines before its fence may direct the test:

* ``<!-- test: skip REASON -->``: not run;
* ``<!-- test: continues -->``: appended to the python block before it, and run as one program;
* ``<!-- test: setup CODE -->``: CODE, of one or more lines, runs before the block: what a fragment takes for granted;
* ``<!-- test: expect TEXT -->``: TEXT, which may span lines, must appear in what the program prints.

Rule of this file: whatever it does not understand is an error, so that no example is left out unseen.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

DEADLINE = 60.0

_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<info>[^`]*)$")
_COMMENT = re.compile(r"<!--\s*test:\s*(?P<verb>\w+)\s*(?P<rest>.*?)\s*-->", re.DOTALL)


class DocsError(Exception):
    """A Markdown file that cannot be tested as it is; the message has its name and line."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. ``line`` is the number of its first line of text, from 1."""

    file: str
    line: int
    language: str
    text: str
    directives: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Program:
    """One python block with those that continue it. ``skip`` is the reason not to run it, or empty."""

    name: str
    source: str
    skip: str = ""
    expected: list[str] = field(default_factory=list)


def find_blocks(file: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text, each with the directives right before it.

    Raises:
        DocsError: a fence is never closed, or a directive is not followed by a block.
    """
    lines = text.splitlines()
    number = 0
    pending: list[tuple[str, str]] = []
    while number < len(lines):
        line = lines[number]
        if line.lstrip().startswith("<!-- test:"):
            comment, number = _comment(file, lines, number)
            pending.append(comment)
        elif fence := _FENCE.match(line):
            end = _closing(file, lines, number, fence)
            body = [each.removeprefix(fence["indent"]) for each in lines[number + 1 : end]]
            language = (fence["info"].split() or [""])[0]
            yield Block(file, number + 2, language, "\n".join(body) + "\n", tuple(pending))
            pending, number = [], end + 1
        elif pending and line.strip():
            raise DocsError(f"{file}:{number + 1}: a test directive stands before a line that opens no block")
        else:
            number += 1
    if pending:
        raise DocsError(f"{file}: a test directive at the end, with no block after it")


def _comment(file: str, lines: list[str], start: int) -> tuple[tuple[str, str], int]:
    """The directive in the comment that begins at this line, and the number of the line after it."""
    for end in range(start, len(lines)):
        if "-->" in lines[end]:
            found = _COMMENT.fullmatch("\n".join(lines[start : end + 1]).strip())
            if found is None:
                raise DocsError(f"{file}:{start + 1}: not a test directive: {lines[start]}")
            return (found["verb"], found["rest"]), end + 1
    raise DocsError(f"{file}:{start + 1}: the comment is never closed")


def _closing(file: str, lines: list[str], start: int, opening: re.Match[str]) -> int:
    for number in range(start + 1, len(lines)):
        text = lines[number].strip()
        if text.startswith(opening["mark"]) and not text.strip(opening["mark"][0]):
            return number
    raise DocsError(f"{file}:{start + 1}: the block is never closed")


def find_programs(blocks: Iterable[Block]) -> list[Program]:
    """The programs in the blocks of one file.

    Raises:
        DocsError: an unknown directive, a skip without a reason, an expect without a text, or nothing to continue.
    """
    programs: list[Program] = []
    for block in blocks:
        if block.language == "python":
            _add(programs, block)
        elif block.directives:
            raise DocsError(f"{block.file}:{block.line}: a test directive before a block that is not python")
    return programs


def _add(programs: list[Program], block: Block) -> None:
    where = f"{block.file}:{block.line}"
    if ("continues", "") in block.directives:
        if not programs:
            raise DocsError(f"{where}: continues, but no python block is before it")
        program = programs[-1]
    else:
        program = Program(where, "")
        programs.append(program)
    # The setup stands above the block in the document, so it fits into the lines above it here too.
    program.source += "".join(f"{rest}\n" for verb, rest in block.directives if verb == "setup")
    # Blank lines up to where the block stands: a traceback then shows the line number of the document.
    program.source += "\n" * (block.line - 1 - program.source.count("\n")) + block.text
    for verb, rest in block.directives:
        match verb:
            case "skip" if rest:
                program.skip = rest
            case "expect" if rest:
                program.expected.append(rest)
            case "continues" if not rest:
                pass  # done above
            case "setup" if rest:
                pass  # done above
            case _:
                raise DocsError(f"{where}: not a test directive: {verb} {rest}".rstrip())


def run_program(program: Program, directory: Path, deadline: float = DEADLINE) -> None:
    """Run it as a user would, in a process of its own that works in ``directory``, for at most ``deadline`` seconds.

    Raises:
        AssertionError: it failed, took too long, or did not print what is expected.
    """
    script = directory / "example.py"
    script.write_text(program.source, "utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    try:
        done = subprocess.run(
            command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{program.name}: still running after {deadline:g} s") from late
    output = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{program.name}: exit status {done.returncode}\n{output}"
    for text in program.expected:
        assert text in done.stdout, f"{program.name}: {text!r} is not in what it printed:\n{output}"


def unknown_commands(block: Block, targets: set[str], root: Path) -> list[str]:
    """The ``make`` targets and Python files that a shell block names and the project does not have."""
    missing = []
    for line in block.text.splitlines():
        words = line.partition("#")[0].removeprefix("$ ").split()
        for program, argument in pairwise(words):
            if program == "make" and re.fullmatch(r"[a-z][a-z-]*", argument) and argument not in targets:
                missing.append(f"{block.file}:{block.line}: make {argument}")
            if program.startswith("python") and argument.endswith(".py") and not (root / argument).is_file():
                missing.append(f"{block.file}:{block.line}: {program} {argument}")
    return missing


def makefile_targets(text: str) -> set[str]:
    """The names of a Makefile's targets."""
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))


def relative_links(text: str) -> list[str]:
    """The files that a Markdown text links to, without their fragments; blocks of code do not count."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [file for link in links if ":" not in link and (file := link.partition("#")[0])]
