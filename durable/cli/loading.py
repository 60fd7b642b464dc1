"""Finding a user's task hub by ``module:attribute``.

Rule of this file: whatever is wrong with the name or the module is a CommandError that says which part and why.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType

from durable.cli.exits import CommandError
from durable.hub import TaskHub


def load_hub(target: str) -> TaskHub:
    """The task hub that ``package.module:attribute`` names; modules of the current directory come first.

    Raises CommandError when there is none, or when importing the module fails.
    """
    module_name, separator, attribute = target.partition(":")
    if not separator or not module_name or not attribute:
        raise CommandError(f"{target!r} names no hub; write module:attribute, as in orders.main:hub")
    directory = os.getcwd()
    if sys.path[0] != directory:
        sys.path.insert(0, directory)
    module = _load_module(module_name)
    found: object = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise CommandError(f"module {module_name!r} has no {attribute!r}; {_hubs_of(module)}") from error
    if not isinstance(found, TaskHub):
        raise CommandError(f"{target} is a {type(found).__name__}, not a TaskHub; {_hubs_of(module)}")
    return found


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(f"there is no module {name!r} here ({os.getcwd()}) or on sys.path") from error
        raise CommandError(f"importing {name} failed: {_where(error)}") from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"importing {name} failed: {_where(error)}") from error


def _where(error: BaseException) -> str:
    """What was raised, and the line of user code that did it."""
    text = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno})"


def _hubs_of(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, TaskHub))
    return f"its hubs are {', '.join(names)}" if names else "it has no TaskHub"
