"""What is wrong is one line that names the value and the rule, and an exit code that a script can tell apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command

FAILED, USAGE, NOT_FOUND, CONFLICT, UNAVAILABLE = 1, 2, 3, 4, 5


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["shwo"], USAGE, "No such command 'shwo'"),
        (["show"], USAGE, "Missing argument 'ID'"),
        (["list", "--limit", "-1"], USAGE, "--limit"),
        (["list", "--status", "Lost"], USAGE, "--status 'Lost' is no status; there are Pending, Running"),
        (["list", "--created-from", "soon"], USAGE, "--created-from 'soon' is no time; write 2026-01-31T09:00:00Z"),
        (["list", "--created-to", "2026-01-31"], USAGE, "'2026-01-31' has no time zone; end it with Z"),
        (["list", "--tag", "x"], USAGE, "--tag 'x' is no tag; write key=value"),
        (["list", "--hub", "a b"], USAGE, "task hub name 'a b' must start with a letter"),
        (["list", "--hub", "other"], NOT_FOUND, "no task hub 'other' in sqlite:///"),
        (["list", "--url", "nosuch://x"], USAGE, "scheme 'nosuch' is not one of memory, mongodb, sqlite"),
        (["list", "--url", "memory://x"], USAGE, "the command line needs a store on disk"),
        (["start", "greet", "--input", "text"], USAGE, "--input 'text' is not JSON"),
        (["start", "greet", "--input", "@nowhere.json"], USAGE, "--input @nowhere.json: cannot read it"),
        (["start", "greet", "--id", "a/b"], USAGE, "instance id 'a/b' must not contain '/'"),
        (["start", "greet", "--id", "done-1"], CONFLICT, "instance 'done-1' exists already with status Completed"),
        (["show", "nobody"], NOT_FOUND, "there is no instance 'nobody'"),
        (["history", "nobody"], NOT_FOUND, "there is no instance 'nobody'"),
        (["history", "done-1", "--execution", "x"], NOT_FOUND, "instance 'done-1' has no history of an execution 'x'"),
        (["executions", "nobody"], NOT_FOUND, "there is no instance 'nobody'"),
        (["tree", "nobody"], NOT_FOUND, "there is no instance 'nobody'"),
        (["raise", "nobody", "go"], NOT_FOUND, "there is no instance 'nobody'"),
        (["raise", "done-1", "go"], CONFLICT, "'done-1'"),
        (["raise", "done-1", "go", "--data", "{"], USAGE, "--data '{' is not JSON"),
        (["suspend", "done-1"], CONFLICT, "'done-1'"),
        (["rewind", "done-1"], CONFLICT, "'done-1'"),
        (["terminate"], USAGE, "terminate what?"),
        (["purge", "done-1", "--all"], USAGE, "purge takes an instance id or conditions, not both"),
        (["purge", "--status", "Completed"], USAGE, "there is nobody to ask; add --yes"),
        (["terminate", "--all"], USAGE, "there is nobody to ask; add --yes"),
        (["count", "--by", "colour"], USAGE, "not by 'colour'"),
        (["worker", "hub"], USAGE, "'hub' names no hub; write module:attribute"),
        (["worker", "nosuch.module:hub"], USAGE, "there is no module 'nosuch.module'"),
        (["worker", "tests.cli.orders:nothing"], USAGE, "has no 'nothing'; its hubs are hub"),
        (["worker", "tests.cli.orders:not_a_hub"], USAGE, "is a str, not a TaskHub; its hubs are hub"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(looking: Command, arguments: list[str], code: int, text: str) -> None:
    done = looking(*arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("durable: ")
    assert len(done.err.splitlines()) == 1
    assert text in done.err


def test_a_store_that_is_away(durable: Command) -> None:
    away = ["--url", "mongodb://someone:secret@127.0.0.1:1/x"]
    done = durable("list", *away)
    assert (done.code, "MongoDB did not answer" in done.err, "secret" in done.err) == (UNAVAILABLE, True, False)
    health = durable("health", "--json", *away)
    assert health.code == UNAVAILABLE
    assert (health.json["status"], health.json["connected"], health.json["workers"]) == ("down", False, None)


def test_a_file_that_is_no_database(durable: Command, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be looked at" * 20)
    done = durable("list", "--url", "sqlite:///text.db")
    assert (done.code, len(done.err.splitlines())) == (UNAVAILABLE, 1)
    assert "text.db" in done.err


def test_debug_shows_the_traceback(looking: Command) -> None:
    done = looking("show", "nobody", "--debug")
    assert done.code == NOT_FOUND
    assert "Traceback (most recent call last)" in done.err
    assert "InstanceNotFoundError" in done.err


def test_a_module_that_cannot_be_imported(durable: Command, tmp_path: Path) -> None:
    (tmp_path / "broken_app.py").write_text("import os\n\nhub = undefined\n")
    done = durable("worker", "broken_app:hub")
    assert done.code == USAGE
    assert "importing broken_app failed: NameError: name 'undefined' is not defined (broken_app.py, line 3)" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_bad_environment(looking: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_LEASE_TIME", "soon")
    done = looking("list")
    assert (done.code, "DURABLE_LEASE_TIME='soon': it must be a number" in done.err) == (USAGE, True)


@pytest.mark.parametrize("package", ["typer", "watchfiles"])
def test_what_is_not_installed_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from durable.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "worker", "--reload", "tests.cli.orders:hub"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == USAGE
    assert done.stderr == (
        f"durable: the command line needs the package {package!r}; "
        "install it with: pip install 'durable-orchestrations[cli]'\n"
    )


def test_a_pipe_that_is_closed_is_no_error(looking: Command, store: str) -> None:
    command = f"{sys.executable} -m durable.cli list --url {store} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
