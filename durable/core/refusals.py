"""What the deterministic loop does not do, and how it says so.

Rule of this file: a refusal names the call, the user's line, and what to use instead.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import lru_cache
from inspect import iscoroutinefunction
from types import FrameType
from typing import Any, NoReturn

from durable.core.errors import NonDeterminismError

_REASONS = {
    "run_in_executor": "threads are not deterministic; call a `def` activity instead",
    "set_default_executor": "threads are not deterministic; call a `def` activity instead",
    "call_soon_threadsafe": "an orchestrator cannot be woken from another thread; raise an event or use an activity",
    "subprocess_exec": "subprocesses are side effects; start them in an activity",
    "subprocess_shell": "subprocesses are side effects; start them in an activity",
    "add_signal_handler": "signals are not deterministic; handle them in the host",
    "remove_signal_handler": "signals are not deterministic; handle them in the host",
    "getaddrinfo": "name look-up is I/O; do it in an activity",
    "getnameinfo": "name look-up is I/O; do it in an activity",
    "run_forever": "the engine runs this loop; await instead",
    "run_until_complete": "the engine runs this loop; await instead",
    "stop": "the engine runs this loop; return from the orchestrator instead",
    "close": "the engine runs this loop; return from the orchestrator instead",
    "set_task_factory": "tasks of a foreign class have no stable order",
}


def refuse_the_rest(loop_class: type) -> None:
    """Give ``loop_class`` a refusing method for each one of an event loop's that it does not define itself."""
    for name, member in vars(asyncio.AbstractEventLoop).items():
        if not name.startswith("_") and name not in vars(loop_class):
            setattr(loop_class, name, _refusal(name, iscoroutinefunction(member)))


def _refusal(name: str, asynchronous: bool) -> Callable[..., Any]:
    reason = _REASONS.get(name, "I/O is not allowed in an orchestrator; do it in an activity")

    def refuse(self: object, *args: Any, **kwargs: Any) -> NoReturn:
        raise refused(f"loop.{name}()", reason)

    async def refuse_async(self: object, *args: Any, **kwargs: Any) -> NoReturn:
        raise refused(f"loop.{name}()", reason)

    chosen = refuse_async if asynchronous else refuse
    chosen.__name__ = name
    return chosen


def refused(call: str, reason: str) -> NonDeterminismError:
    """The error for a ``call`` that an orchestrator must not make, with the user's line."""
    return NonDeterminismError(f"{call} was called in an orchestrator{at_user_line()}: {reason}")


# --- where user code is --------------------------------------------------------------------

LIBRARIES = frozenset({"asyncio", "anyio", "concurrent", "contextlib", "durable", "threading"})


def user_line() -> str | None:
    """The source line of the innermost frame of user code on this loop, as ``file.py:12 in function``."""
    frame: FrameType | None = sys._getframe(2)  # the caller is of this package
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "durable.core.loop" and frame.f_code.co_name == "_swapped_in":
            return None  # further out is the host
        if is_user_module(module):
            return describe_frame(frame)
        frame = frame.f_back
    return None


def at_user_line() -> str:
    """`` (at file.py:12 in function)``, to be put into a message; empty when there is no such line."""
    line = user_line()
    return f" (at {line})" if line else ""


@lru_cache(maxsize=4096)
def is_user_module(name: str) -> bool:
    """Whether a module is neither ours nor of a library that runs callbacks for the user."""
    return name.partition(".")[0] not in LIBRARIES


def describe_frame(frame: FrameType) -> str:
    """``file.py:12 in function``: short, and free of the machine's paths."""
    code = frame.f_code
    return _describe(code.co_filename, frame.f_lineno, code.co_qualname)


@lru_cache(maxsize=4096)  # by texts: a code object makes its hash anew each time
def _describe(path: str, line: int, function: str) -> str:
    return f"{path.replace(chr(92), '/').rpartition('/')[2]}:{line} in {function}"
