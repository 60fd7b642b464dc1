"""What users install: the distributions build, hold what they must, and work without this checkout."""

from __future__ import annotations

import configparser
import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("durable", "durable_mongodb", "durable_otel", "durable_sqlite")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints; its errors are part of the failure. The checkout must not leak in by the environment."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory, cwd=ROOT)
    (path,) = directory.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def wheel(source_distribution: Path) -> Path:
    """The wheel built from the source distribution, so that this is known to be complete."""
    directory = source_distribution.parent
    with tarfile.open(source_distribution) as archive:
        archive.extractall(directory, filter="data")
    (sources,) = (path for path in directory.iterdir() if path.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=sources)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh virtualenv that has the wheel, and sees the dependencies of the one that runs the tests.

    Those come by a path file: Python reads none that lies in a directory so added, so the editable install of
    this checkout stays out.
    """
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=False, symlinks=os.name != "nt")
    python = directory / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=directory).strip())
    install = ("-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--no-index", "--no-deps")
    run(sys.executable, *install, wheel, cwd=directory)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return python


def test_the_source_distribution_is_whole_and_clean(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "Makefile", "tests/test_packaging.py"} <= names
    assert [name for name in names if name.startswith(".venv") or "__pycache__" in name or name.endswith(".db")] == []


def test_the_wheel_holds_the_typed_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_has_every_module(wheel: Path) -> None:
    sources = {
        path.relative_to(base).as_posix()
        for base, package in ((ROOT, "durable"), *((ROOT / "backends", name) for name in PACKAGES[1:]))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_metadata_names_license_extras_and_entry_points(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    files = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    metadata = email.message_from_bytes(archive.read(files["METADATA"]))
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.11")
    assert "mongodb" in (metadata.get_all("Provides-Extra") or [])
    assert "licenses/LICENSE" in files
    assert archive.read(files["licenses/LICENSE"]).startswith(b"MIT License")
    points = configparser.ConfigParser(delimiters="=")
    points.read_string(archive.read(files["entry_points.txt"]).decode())
    assert set(points["durable.backends"]) == {"memory", "mongodb", "sqlite"}
    assert dict(points["console_scripts"]) == {"durable": "durable.cli:main"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_installed_package_is_the_wheels(installed: Path, package: str, tmp_path: Path) -> None:
    location = Path(run(installed, "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path).strip())
    assert location.is_relative_to(installed.parent.parent)


def test_the_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    assert run(installed.with_name("durable"), "--version", cwd=tmp_path).strip() == version("durable-orchestrations")


def test_the_installed_backend_opens_a_store(installed: Path, tmp_path: Path) -> None:
    code = """
import asyncio
from durable.backend_url import create_backend

async def main():
    backend = create_backend("sqlite:///store.db", "hub")
    await backend.open(4)
    await backend.close()

asyncio.run(main())
"""
    run(installed, "-W", "error", "-c", code, cwd=tmp_path)
    assert (tmp_path / "store.db").stat().st_size > 0
