"""Fails if a public name has an incomplete type, as a user's type checker would see it.

Pyright judges a package only where it is installed, and not an editable one: so the wheel is built and
unpacked beside. Of its findings those count that concern what users and backend authors import:
the packages' own names (``__all__``) and the public modules; the engine's inside is mypy's business.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Each distribution package, with the modules whose ``__all__`` is for users.
PACKAGES = {
    "durable": ("durable", "durable.testing"),
    "durable_mongodb": ("durable_mongodb",),
    "durable_sqlite": ("durable_sqlite",),
}
PORT = "durable.backend"  # public as a whole: a backend author needs all of it


def build(into: Path) -> Path:
    """Build the wheel and unpack it; return the directory that stands for site-packages."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = into.glob("*.whl")
    site = into / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def verify(package: str, site: Path) -> dict[str, Any]:
    """Pyright's report on the package's types. It runs outside the root, where the sources would hide the wheel."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "--ignoreexternal"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [*command, "--verifytypes", package], cwd=site.parent, env=environment, capture_output=True, text=True
    )
    report: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    if not report["modules"]:
        raise RuntimeError(f"pyright found no module of {package}: {done.stdout}{done.stderr}")
    return report


def public_names(package: str) -> tuple[str, ...]:
    """The dotted names, where they are defined, of what the package's public modules export; and the port."""
    names = {PORT}
    for module in map(importlib.import_module, PACKAGES[package]):
        exported = [getattr(module, name) for name in getattr(module, "__all__", ())]
        names.update(f"{x.__module__}.{x.__qualname__}" for x in exported if hasattr(x, "__qualname__"))
    return tuple(sorted(names))


def is_within(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or name.startswith(owner + ".") for owner in owners)


def faults(symbol: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a symbol's type. Docstrings are the tests' business.

    An attribute that has no annotation taints all that mentions it: of those only the root is told.
    """
    for message in (diagnostic["message"] for diagnostic in symbol["diagnostics"]):
        is_echo = symbol["isTypeAmbiguous"] and "partially unknown" in message
        if not (symbol["isTypeKnown"] or is_echo or message.startswith("No docstring")):
            yield f"{symbol['name']}: {message}"


def main() -> int:
    problems = []
    with tempfile.TemporaryDirectory() as directory:
        site = build(Path(directory))
        for package in PACKAGES:
            owners = public_names(package)
            symbols = [s for s in verify(package, site)["symbols"] if is_within(s["name"], owners)]
            print(f"{package}: {len(symbols)} public symbols")
            problems += [fault for symbol in symbols for fault in faults(symbol)]
    print("\n".join(problems) or "every public type is complete")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
