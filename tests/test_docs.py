"""The documents tell the truth: every program in them runs, every command, file and link they name exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs_examples import (
    Block,
    DocsError,
    Program,
    find_blocks,
    find_programs,
    makefile_targets,
    relative_links,
    run_program,
    unknown_commands,
)

ROOT = Path(__file__).resolve().parent.parent
RUNNABLE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [*RUNNABLE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
SHELLS = {"bash", "sh", "shell", "console"}


def blocks_of(path: Path) -> list[Block]:
    return list(find_blocks(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")))


PROGRAMS = [program for path in RUNNABLE for program in find_programs(blocks_of(path))]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_example_runs(program: Program, tmp_path: Path) -> None:
    if program.skip:
        pytest.skip(program.skip)
    run_program(program, tmp_path)


def test_commands_exist() -> None:
    targets = makefile_targets((ROOT / "Makefile").read_text("utf-8"))
    blocks = [block for path in DOCUMENTS for block in blocks_of(path) if block.language in SHELLS]
    assert [missing for block in blocks for missing in unknown_commands(block, targets, ROOT)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = relative_links(path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


# --- the finder and the runner themselves


def programs(text: str) -> list[Program]:
    return find_programs(find_blocks("doc.md", text))


def test_only_python_blocks_are_programs() -> None:
    others = "```bash\nls\n```\n\n```\nplain\n```\n\n"
    text = f"# T\n\n```python\nprint(1)\n```\n\n{others}  ```python\n  if 1:\n      pass\n  ```\n"
    first, second = programs(text)
    assert (first.name, first.source) == ("doc.md:4", "\n\n\nprint(1)\n")
    assert (second.name, second.source.lstrip("\n")) == ("doc.md:16", "if 1:\n    pass\n")


def test_a_block_continues_the_one_before(tmp_path: Path) -> None:
    text = (
        "```python\nx = 1\n```\nthen\n<!-- test: continues -->\n<!-- test: expect 2 -->\n```python\nprint(x + 1)\n```\n"
    )
    (program,) = programs(text)
    assert program.source.splitlines()[7] == "print(x + 1)"
    run_program(program, tmp_path)


def test_a_setup_runs_before_its_block(tmp_path: Path) -> None:
    (program,) = programs(
        "<!-- test: setup\nx = 1\ny = 2\n-->\n<!-- test: expect 3 -->\n```python\nprint(x + y)\n```\n"
    )
    assert program.source.splitlines()[6] == "print(x + y)"
    run_program(program, tmp_path)


def test_a_skip_keeps_its_reason() -> None:
    (program,) = programs("<!-- test: skip needs a printer -->\n\n```python\n1 / 0\n```\n")
    assert program.skip == "needs a printer"


def test_an_expectation_may_span_lines(tmp_path: Path) -> None:
    (program,) = programs("<!-- test: expect\none\ntwo\n-->\n```python\nprint('one')\nprint('two')\n```\n")
    run_program(program, tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nx\n", "doc.md:1: the block is never closed"),
        ("<!-- test: skip\n```python\nx\n```\n", "doc.md:1: the comment is never closed"),
        ("<!-- test: skip -->\n```python\nx\n```\n", "not a test directive: skip"),
        ("<!-- test: maybe -->\n```python\nx\n```\n", "not a test directive: maybe"),
        ("<!-- test: ! -->\n```python\nx\n```\n", "doc.md:1: not a test directive"),
        ("<!-- test: continues -->\n```python\nx\n```\n", "no python block is before it"),
        ("<!-- test: skip it -->\n```bash\nx\n```\n", "not python"),
        ("<!-- test: skip it -->\ntext\n```python\nx\n```\n", "doc.md:2: a test directive stands before"),
        ("<!-- test: skip it -->\n", "no block after it"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(DocsError, match=complaint):
        programs(text)


@pytest.mark.parametrize(
    ("code", "directive", "complaint"),
    [
        ("\n1 / 0", "", r"(?s)doc.md:3: exit status 1.*line 4.*ZeroDivisionError"),
        ("print('a')", "<!-- test: expect b -->", "'b' is not in what it printed"),
        ("import warnings; warnings.warn('old')", "", "UserWarning: old"),
        ("input()", "", "EOFError"),
    ],
)
def test_a_broken_example_fails(tmp_path: Path, code: str, directive: str, complaint: str) -> None:
    (program,) = programs(f"{directive}\n```python\n{code}\n```\n")
    with pytest.raises(AssertionError, match=complaint):
        run_program(program, tmp_path)


def test_an_example_that_never_ends_fails(tmp_path: Path) -> None:
    (program,) = programs("```python\nwhile True: pass\n```\n")
    with pytest.raises(AssertionError, match="still running after"):
        run_program(program, tmp_path, deadline=0.5)


def test_missing_commands_are_found() -> None:
    text = "make test ARGS=-x\nmake fly  # not yet\n$ python nowhere.py\npython tests/test_docs.py\n"
    found = unknown_commands(Block("doc.md", 1, "bash", text), makefile_targets("test: x\nX := 1\n"), ROOT)
    assert found == ["doc.md:1: make fly", "doc.md:1: python nowhere.py"]


def test_links_in_code_do_not_count() -> None:
    text = "[a](a.md#x) [b](https://b.example) [c](#c)\n```python\nx[0](y)\n```\n[d](d.md)"
    assert relative_links(text) == ["a.md", "d.md"]
