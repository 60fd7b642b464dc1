"""What of CPython's and anyio's own tests is not run on the deterministic loop, and why. The one list.

A CPython entry matches the test's name, or ``Class.name``; an anyio entry is a file, or a node id
without parameters.
"""

from __future__ import annotations

_THREADS = "needs threads; the loop refuses them"
_IO = "needs I/O; the loop refuses it"

CPYTHON = {
    "test_run_coroutine_threadsafe": _THREADS,
    "test_run_coroutine_threadsafe_task_cancelled": _THREADS,
    "test_run_coroutine_threadsafe_task_factory_exception": _THREADS,
    "test_run_coroutine_threadsafe_with_exception": _THREADS,
    "test_run_coroutine_threadsafe_with_timeout": _THREADS,
    "test_stop_while_run_in_complete": "asserts how often the test loop's scripted clock was asked",
    "test_issue46672": "patches BaseEventLoop by its path",
    "test_loop_factory_default_event_loop": "asserts that asyncio.EventLoop is the selector loop",
    "LoopMadeTaskTests.test_task_source_traceback": "debug tracebacks of tasks made by the loop end in the loop",
}

NEWER_THAN = {"test_loop_factory_default_event_loop": (3, 13)}
"""The Python in which an excluded test first appears, where that is not the oldest supported one."""

ANYIO_FILES = {
    "test_fileio.py": _THREADS,
    "test_from_thread.py": _THREADS,
    "test_to_thread.py": _THREADS,
    "test_tempfile.py": _THREADS,
    "test_to_interpreter.py": _THREADS,
    "test_to_process.py": _IO,
    "test_subprocesses.py": _IO,
    "test_sockets.py": _IO,
    "test_signals.py": _IO,
    "streams/test_file.py": _THREADS,
    "streams/test_tls.py": _IO,
    "test_pytest_plugin.py": "runs pytest on anyio's own choice of loops",
    "test_all_attributes.py": "checks anyio's modules, not what runs on a loop",
    "test_lazyimport.py": "checks anyio's modules, not what runs on a loop",
}

ANYIO = {
    "test_eventloop.py::TestAsyncioOptions::test_debug_via_env": "PYTHONASYNCIODEBUG is read by BaseEventLoop",
    "test_taskgroups.py::test_fail_after_scope_cancelled_before_timeout": (
        "a strict xfail that fails only when a clock runs on between two callbacks"
    ),
}
