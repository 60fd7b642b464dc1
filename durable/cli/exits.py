"""Exit codes, and which error is which.

Rule of this file: what a user can do wrong, or meet, is one line on stderr that names the value and the rule. A
traceback is for ``--debug``.
"""

from __future__ import annotations

import os
import sys
import traceback
from enum import IntEnum


class ExitCode(IntEnum):
    """What the command answers to the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


class CommandError(Exception):
    """An error of the command itself, with its exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


# By the name of the class or of one of its bases, so that errors of backends and extras need no import here.
_CODES = {
    "BackendError": ExitCode.UNAVAILABLE,
    "InstanceNotFoundError": ExitCode.NOT_FOUND,
    "InstanceExistsError": ExitCode.CONFLICT,
    "InstanceFinishedError": ExitCode.CONFLICT,
    "InstanceNotFailedError": ExitCode.CONFLICT,
    "InstanceNotFinishedError": ExitCode.CONFLICT,
    "InstanceHeldError": ExitCode.CONFLICT,
    "PayloadError": ExitCode.USAGE,
    "RegistrationError": ExitCode.USAGE,
    "UnknownFunctionError": ExitCode.USAGE,
    "ModuleNotFoundError": ExitCode.USAGE,
    "ValueError": ExitCode.USAGE,
    "DurableError": ExitCode.FAILED,
    "TimeoutError": ExitCode.FAILED,
    "OSError": ExitCode.FAILED,
}


_EXTRA = {"typer", "click", "rich", "shellingham", "watchfiles"}


def is_of_the_extra(error: ModuleNotFoundError) -> bool:
    """Whether a package is missing that comes with the extra ``cli``."""
    return (error.name or "").partition(".")[0] in _EXTRA


def code_of(error: BaseException) -> ExitCode | None:
    """The exit code for an error; None for one that nobody expects."""
    if isinstance(error, CommandError):
        return error.code
    return next((_CODES[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in _CODES), None)


def report(error: BaseException, *, debug: bool) -> ExitCode:
    """Tell of an error on stderr, in one line or with ``debug`` as a traceback, and return its exit code."""
    code = code_of(error)
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, ModuleNotFoundError) and is_of_the_extra(error):
        _say(
            f"the command line needs the package {error.name!r}; "
            "install it with: pip install 'durable-orchestrations[cli]'"
        )
    elif code is None:
        _say(f"unexpected {type(error).__name__}: {error}; --debug shows where")
    else:
        _say(str(error) or type(error).__name__)
    return ExitCode.FAILED if code is None else code


def report_text(text: str) -> None:
    """Tell of a wrong command line."""
    _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"durable: {' '.join(text.split())}\n")


def drop_output() -> None:
    """After a broken pipe: nobody reads any more, and Python would complain of that at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
