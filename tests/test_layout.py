"""The house rules that no off-the-shelf checker knows: sizes, what the core may touch, words that must not appear."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40

# "path::function" -> the reason why it is better long. Empty at best.
LONG_FUNCTIONS: dict[str, str] = {}

CORE_BANNED_MODULES = frozenset(
    {"logging", "os", "random", "secrets", "socket", "sqlite3", "ssl", "subprocess", "threading", "time"}
)
# Names that bring a clock or randomness in by a module that is otherwise allowed (uuid, datetime).
CORE_BANNED_NAMES = frozenset({"uuid1", "uuid4", "now", "utcnow", "today", "urandom", "token_hex"})
BACKEND_MAY_IMPORT = ("durable.backend", "durable.core", "durable.tasks", "durable.transactions")

# Spelled in pieces so that this file passes its own test.
MACHINE_PATHS = re.compile(r"(?<![\w.~}/-])/(?:" + "|".join(["work", "root", "home", "opt"]) + r")/")
REGISTRIES = re.compile(
    "files" + r"\.pythonhosted|pypi" + r"\.org/simple|--(?:extra-)?index" + "-url|--find" + "-links"
)
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".lock", ".cfg", ".ini", ".json", ".jsonl", ".sql", ".yml", ".yaml", ".txt"}
GENERATED = {"build", "dist", "__pycache__"}


def python_files(*directories: str) -> list[Path]:
    return sorted(path for name in directories for path in (ROOT / name).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: neither blank, nor only a comment, nor in a docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def long_functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and size of each function with too many lines of code; one nested in another counts as part of it too."""
    lines: set[int] | None = None  # to find them takes longer than all the rest; most files have no candidate
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            extent = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if len(extent) <= MAX_FUNCTION_LINES:
                continue
            lines = code_lines(source) if lines is None else lines
            size = len(lines.intersection(extent))
            if size > MAX_FUNCTION_LINES:
                yield node.name, size


def imported_modules(source: str) -> Iterator[tuple[str, int]]:
    """Dotted name and line of every absolute import, also those inside functions; ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def lines_for_type_checkers(source: str) -> set[int]:
    """The numbers of the lines under ``if TYPE_CHECKING:``, which never run."""
    return {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }


def impurities(source: str) -> Iterator[str]:
    """What in a module of the core could differ between two runs of one history, or is not the standard library."""
    never_run = lines_for_type_checkers(source)
    for name, line in imported_modules(source):
        top, last = name.partition(".")[0], name.rpartition(".")[2]
        allowed = name.startswith("durable.core") or top in sys.stdlib_module_names - CORE_BANNED_MODULES
        if line not in never_run and (not allowed or last in CORE_BANNED_NAMES):
            yield f"line {line}: imports {name}"
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="uuid" | "datetime" | "date"), attr=name) if name in CORE_BANNED_NAMES:
                yield f"line {node.lineno}: uses {ast.unparse(node)}"
            case _:
                pass


def repository_texts() -> Iterator[Path]:
    """Every text file of the project; of the dot directories only .ci."""
    for directory, names, files in os.walk(ROOT):
        names[:] = sorted(name for name in names if name == ".ci" or not (name.startswith(".") or name in GENERATED))
        yield from (path for name in sorted(files) if (path := Path(directory, name)).suffix in TEXT_SUFFIXES)


def test_no_module_is_too_long() -> None:
    sizes = {relative(path): len(path.read_text("utf-8").splitlines()) for path in python_files("durable", "backends")}
    assert {name: size for name, size in sizes.items() if size > MAX_MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    files = python_files("durable", "backends", "tests", "examples", "benchmarks", ".ci")
    found = {
        f"{relative(path)}::{name}": size for path in files for name, size in long_functions(path.read_text("utf-8"))
    }
    assert {name: size for name, size in found.items() if name not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(found), "exceptions that are no longer needed"


def test_the_core_is_pure() -> None:
    found = {relative(path): list(impurities(path.read_text("utf-8"))) for path in python_files("durable/core")}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_backends_know_only_the_port_and_the_core() -> None:
    found = [
        f"{relative(path)}:{line}: {name}"
        for path in python_files("backends")
        for name, line in imported_modules(path.read_text("utf-8"))
        if name.partition(".")[0] == "durable" and not name.startswith(BACKEND_MAY_IMPORT)
    ]
    assert found == []


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES], ids=["machine paths", "registries"])
def test_nothing_names_a_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in repository_texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_the_lock_pins_and_hashes_every_package() -> None:
    text = (ROOT / "requirements/dev.lock").read_text("utf-8").replace("\\\n", "")
    requirements = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(requirements) > 20
    assert [line for line in requirements if not re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:", line)] == []


# --- the rules themselves are tested: each must find a planted fault


def test_code_lines_leave_out_comments_docstrings_and_blanks() -> None:
    source = '"""Doc.\n\nmore"""\n\nx = 1  # one\n# two\ny = """\n3\n"""\n'
    assert code_lines(source) == {5, 7, 8, 9}


@pytest.mark.parametrize(("body", "expected"), [(39, []), (40, [("f", 41)])])
def test_a_function_of_forty_lines_is_the_longest(body: int, expected: list[tuple[str, int]]) -> None:
    source = "async def f():\n    '''Doc.'''\n\n" + "    x = 1  # comment\n    # comment\n" * body
    assert list(long_functions(source)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from os import path",
        "import pydantic",
        "import durable.backend",
        "def f():\n    import random",
        "from uuid import uuid4",
        "import uuid\nx = uuid.uuid4()",
        "from datetime import datetime\nx = datetime.now()",
    ],
)
def test_impurity_is_found(source: str) -> None:
    assert len(list(impurities(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "from durable.core.events import X",
        "import uuid\nx = uuid.UUID(int=1)",
        "self.now()",
        "if TYPE_CHECKING:\n    import logging",
    ],
)
def test_purity_is_not_doubted(source: str) -> None:
    assert list(impurities(source)) == []


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (["", "work", "main"], True),
        (["see ", "root", ".cache"], True),
        (["lib", "work", "x"], False),
        (["http:", "", "a", "home", ""], False),
    ],
)
def test_machine_paths_are_found(parts: list[str], found: bool) -> None:
    assert bool(MACHINE_PATHS.search("/".join(parts))) is found
