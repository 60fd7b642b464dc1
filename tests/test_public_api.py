"""What users import: every name is there, documented, and costs no more than it must."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import entry_points
from types import ModuleType

import pytest

from durable.backend_url import create_backend

MODULES = ["durable", "durable.testing", "durable_mongodb", "durable_otel", "durable_sqlite"]
BACKENDS = {"memory": "memory://", "mongodb": "mongodb://localhost:27017/x", "sqlite": "sqlite:///x.db"}


def exported(module: ModuleType) -> list[str]:
    names: list[str] = list(getattr(module, "__all__", []))
    return names


@pytest.mark.parametrize("name", MODULES)
def test_exports_are_sorted_and_there(name: str) -> None:
    module = importlib.import_module(name)
    names = exported(module)
    assert names == sorted(set(names))
    assert [each for each in names if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_exported_by_accident(name: str) -> None:
    module = importlib.import_module(name)
    own = {each for each in vars(module) if not each.startswith("_")}
    imported = {each for each in own if not inspect.ismodule(getattr(module, each)) and each != "annotations"}
    assert imported - set(exported(module)) == set()


@pytest.mark.parametrize("name", [*MODULES, "durable.backend"])
def test_every_public_thing_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    own = [each for each, thing in vars(module).items() if getattr(thing, "__module__", "") == name and each[0] != "_"]
    things = {each: getattr(module, each) for each in exported(module) or own}
    public = {each: thing for each, thing in things.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
    # A dataclass without a docstring gets its signature for one.
    bare = [each for each, thing in public.items() if not thing.__doc__ or thing.__doc__.startswith(f"{each}(")]
    assert bare == []


def test_backends_are_found_by_entry_point() -> None:
    assert {point.name for point in entry_points(group="durable.backends")} == set(BACKENDS)


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_backend_is_made_from_its_url(scheme: str) -> None:
    backend = create_backend(BACKENDS[scheme], "hub")
    operations = {"open", "close", "create_instances", "commit", "settle", "load"}
    assert {name for name in operations if callable(getattr(backend, name, None))} == operations


def test_an_unknown_scheme_is_explained() -> None:
    with pytest.raises(ValueError, match=r"'nosuch' is not one of memory, mongodb, sqlite"):
        create_backend("nosuch://x", "hub")


def test_import_brings_no_driver_and_no_server() -> None:
    """``import durable`` must not pay for the stores and tools that this process may never use."""
    heavy = {"bson", "durable_mongodb", "durable_sqlite", "motor", "pymongo", "pytest", "sqlite3", "starlette"}
    code = f"import sys, durable; print(sorted({heavy!r}.intersection(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
