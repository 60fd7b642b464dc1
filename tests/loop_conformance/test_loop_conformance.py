"""CPython's and anyio's own tests, run on the deterministic loop.

They are not in this repository: CPython's are those of the Python that runs, anyio's are fetched from the
package index for the version that is installed. Where one cannot be had the test is skipped, but fails in CI.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NoReturn

import pytest

from tests.loop_conformance.exclusions import ANYIO, ANYIO_FILES, NEWER_THAN

ROOT = Path(__file__).parents[2]
CPYTHON_FLOOR = {(3, 11): 1390, (3, 12): 1475, (3, 13): 1550}
ANYIO_FLOOR = 505
ANYIO_NEEDS = ("pytest_mock", "pytest_timeout", "trustme")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_cpythons_tests_pass() -> None:
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        cannot_run("this Python was installed without its `test` package")
    done = run("-m", "tests.loop_conformance.cpython_suite", cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failed"] == [], done.stderr[-8000:]
    assert report["passed"] >= CPYTHON_FLOOR[min(sys.version_info[:2], max(CPYTHON_FLOOR))]
    assert [name for name in report["stale"] if sys.version_info >= NEWER_THAN.get(name, (3, 11))] == []


def test_anyios_tests_pass(request: pytest.FixtureRequest) -> None:
    missing = [name for name in ANYIO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        cannot_run(f"anyio's tests need {', '.join(missing)}")
    assert request.config.cache is not None
    source = anyio_source(request.config.cache.mkdir("anyio-source"))
    files = sorted(str(path.relative_to(source / "tests")) for path in (source / "tests").glob("**/test_*.py"))
    assert ANYIO_FILES.keys() <= set(files), "an excluded file of anyio's tests is no more"
    done = run(
        *("-m", "pytest", "-q", "-p", "anyio_suite_plugin"),
        *(f"--deselect=tests/{name}" for name in ANYIO),
        *(f"tests/{name}" for name in files if name not in ANYIO_FILES),
        cwd=source,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= ANYIO_FLOOR


def anyio_source(cache: Path) -> Path:
    """The unpacked source of the installed anyio, with its tests."""
    name = f"anyio-{importlib.metadata.version('anyio')}"
    if not (cache / name).exists():
        requirement = name.replace("-", "==")
        done = run("-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--dest", str(cache), requirement)
        if done.returncode != 0:
            cannot_run(f"pip could not download the source of {requirement}: {done.stderr[-500:]}")
        with tarfile.open(cache / f"{name}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return cache / name


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(Path(__file__).parent)}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def cannot_run(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(f"NOT TESTED: {reason}")
