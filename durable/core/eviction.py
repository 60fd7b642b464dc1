"""Ending the code of an instance that is thrown out of memory.

Rule of this file: what is closed here goes on later, from history, perhaps elsewhere. So nothing
it does while it ends may count, and nothing of it may be left in the process.
"""

from __future__ import annotations

import gc
import sys
from asyncio import tasks as _tasks
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from durable.core.futures import Task

_GENERATOR_STEPS = frozenset({"anext_awaitable", "async_generator_asend", "async_generator_athrow"})


def close_task(task: Task) -> None:
    """End a suspended task and take it out of the registries of the process."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop = task.get_loop()
    # Its ``finally`` blocks must find it as the current task: cancel scopes and timeouts ask.
    _tasks._enter_task(loop, task)
    try:
        _close_all(_awaiting(task.get_coro()))
    finally:
        _tasks._leave_task(loop, task)
        _tasks._unregister_task(task)
        _forget_in_anyio(task)


def _awaiting(coro: Any) -> list[Any]:
    """The task's coroutine, the one it awaits, and so on inwards, also through async generators."""
    chain = [coro]
    while isinstance(inner := _awaited(chain[-1]), CoroutineType | AsyncGeneratorType):
        if any(inner is known for known in chain):
            break  # a referent of a step may lead outwards again
        chain.append(inner)
    return chain


def _awaited(outer: Any) -> Any:
    inner = getattr(outer, "cr_await", None) or getattr(outer, "ag_await", None)
    # A step of an async generator closes nothing inside of it before 3.13, and shows it to the garbage collector only.
    while type(inner).__name__ in _GENERATOR_STEPS:
        inner = next((one for one in gc.get_referents(inner) if _leads_inwards(one)), None)
    return inner


def _leads_inwards(referent: Any) -> bool:
    return isinstance(referent, AsyncGeneratorType) or type(referent).__name__ in _GENERATOR_STEPS


def _close_all(chain: list[Any]) -> None:
    for coro in reversed(chain):
        if isinstance(coro, AsyncGeneratorType):
            continue  # what awaits it closes it, where Python does that
        try:
            coro.close()
        except KeyboardInterrupt:
            raise
        except BaseException:  # nobody is left to be told, and "ignored GeneratorExit" is dealt with below
            pass
        if getattr(coro, "cr_frame", None) is not None:
            _never_free(chain[0])
            return


def _never_free(coro: Any) -> None:
    """Leave a coroutine suspended that caught GeneratorExit and awaited again.

    A leak, but of code that asked for it. Freed, it would get GeneratorExit once more: from the garbage
    collector, or at interpreter exit, with no loop to refuse what it does, and so perhaps never end.
    """
    import ctypes  # dear to import and hardly ever needed

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))


def _forget_in_anyio(task: Task) -> None:
    states = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", None)
    if states is None:
        return
    # anyio's table refers from the task's scope back to the task: an ephemeron it never drops.
    state = states.pop(task, None)
    scope = state and state.cancel_scope
    while scope is not None:
        for member in scope._tasks:  # durable futures, started as tasks, are in the table too
            states.pop(member, None)
        scope = scope._parent_scope
