"""Ending the code of an instance that is thrown out of memory.

Rule of this file: what is closed here goes on later, from history, perhaps elsewhere. So nothing
it does while it ends may count, and nothing of it may be left in the process.
"""

from __future__ import annotations

import sys
from asyncio import tasks as _tasks
from types import CoroutineType, FrameType
from typing import Any

from durable.core.futures import Task

_NESTED_TRIES = 50


def close_task(task: Task) -> None:
    """End a suspended task and take it out of the registries of the process."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    try:
        # The innermost first: a coroutine that lets go of an unfinished one leaves it to the garbage collector.
        for coro in reversed(_chain(task.get_coro())):
            _close(coro)
    finally:
        _tasks._unregister_task(task)
        _forget_in_anyio(task)


def _chain(coro: Any) -> list[Any]:
    chain = [coro]
    while isinstance(inner := getattr(chain[-1], "cr_await", None), CoroutineType):
        chain.append(inner)
    return chain


def _close(coro: Any) -> None:
    try:
        coro.close()
    except KeyboardInterrupt:
        raise
    except BaseException:
        # The instance is thrown away: what its ``finally`` blocks raise has nobody to go to.
        if getattr(coro, "cr_frame", None) is not None:
            _close_by_force(coro)


def _close_by_force(coro: Any) -> None:
    """Close a coroutine that caught GeneratorExit and awaited again, by raising at the next line it runs.

    Left suspended it would be ended by the garbage collector, or at interpreter exit, when no loop
    refuses what it does; a ``while True`` around it would then never end.
    """
    tracer = sys.gettrace()
    for _ in range(_NESTED_TRIES):
        coro.cr_frame.f_trace = _raise_at_line
        sys.settrace(_raise_at_line)
        try:
            coro.close()
        except Exception:  # caught GeneratorExit again, in an outer ``try``: the next round is for that
            continue
        finally:
            sys.settrace(tracer)
        return


def _raise_at_line(frame: FrameType, event: str, arg: object) -> Any:
    if event == "line":
        raise GeneratorExit
    return _raise_at_line


def _forget_in_anyio(task: Task) -> None:
    backend = sys.modules.get("anyio._backends._asyncio")
    states = getattr(backend, "_task_states", None)
    # anyio's table refers from the task's scope back to the task: an ephemeron it never drops.
    state = states.pop(task, None) if states is not None else None
    scope = state.cancel_scope if state is not None else None
    while scope is not None:
        for member in scope._tasks:  # durable futures, started as tasks, are in the table too
            states.pop(member, None)
        scope = scope._parent_scope
