"""Settings of a hub and its workers: one frozen value, each field with its unit and default.

Rule of this file: arguments come before environment variables, and those before defaults. docs/settings.md is
compared with the fields and their texts by a test.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from durable.core.versions import VersionFailure, VersionMatch
from durable.environment import PREFIX, read_settings
from durable.retaining import Retain, parse_retain

_MAY_BE_ZERO = ("gc_threshold", "history_warning", "max_history")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a hub and the workers in this process behave. Times are in seconds.

    Raises ValueError (TypeError for ``retain`` of another type) for a value that makes no sense, and for two that
    contradict each other, naming them.
    """

    partitions: int = 16
    """Partitions of a new task hub; an existing hub keeps the count it was created with."""
    lease_time: float = 10.0
    """Seconds that a worker which does not answer keeps its partitions; fail-over takes at most twice that."""
    max_activities: int = 100 * (os.cpu_count() or 1)
    """Activities that run at once in this process; further ones wait."""
    activity_threads: int = min(32, 4 + (os.cpu_count() or 1))
    """Threads for activities that are plain ``def`` functions."""
    max_deliveries: int = 10
    """How often an activity may be delivered without an outcome before it fails as poison."""
    cache_instances: int = 10_000
    """Instances kept live in memory; the least recently used beyond that are replayed when they wake."""
    cache_bytes: int = 512 * 1024 * 1024
    """Bound on the histories of the instances kept live, in bytes of their payloads."""
    keep_executions: int = 3
    """Former executions of an instance whose history is kept when it continues as new."""
    history_warning: int = 10_000
    """Events in the history of one execution at which a warning is logged, and again at each doubling; 0: never."""
    max_history: int = 200_000
    """Events in the history of one execution from which its next turn fails the instance; 0: there is no limit."""
    version: str | None = None
    """The version of the orchestrators here; the one that instances are started with unless they say otherwise."""
    version_match: VersionMatch = VersionMatch.NONE
    """Which instances this worker runs, by their version: all, those of its own, or also older ones."""
    version_failure: VersionFailure = VersionFailure.REJECT
    """What becomes of a new instance that does not match: it is parked, or it fails."""
    retain: Retain | None = None
    """How long instances are kept after they ended, by a timedelta or by one for each status; None: for ever.
    An orchestrator's own ``retain`` takes its place."""
    queues: tuple[str, ...] | None = None
    """The activity queues that a worker serves; None: all that are registered in its process."""
    drain_time: float = 30.0
    """Seconds that a stopping worker lets running activities end before it cancels them."""
    start_timeout: float = 10.0
    """Seconds that ``start`` waits for the store before it raises BackendUnavailable."""
    blocked_turn: float = 0.25
    """A turn that keeps the thread for more seconds than this is reported with its stack; ``inf``: none is."""

    gc_threshold: int = 20_000
    """Young objects at which Python's garbage collector runs while a worker does (a setting of the whole
    process, given back when the worker stops), in smaller steps than by default; 0 leaves it alone."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (value > 0 or (value == 0 and field.name in _MAY_BE_ZERO)):
                raise ValueError(f"setting {field.name} must be greater than zero, not {value!r}")
        if self.retain is not None:
            parse_retain(self.retain, "setting retain")
        if isinstance(self.queues, str):
            raise ValueError(f"setting queues must be several names, not the text {self.queues!r}")
        if self.queues is not None:
            object.__setattr__(self, "queues", tuple(self.queues))  # a list would make the settings unhashable
        if self.partitions > 4096:
            raise ValueError(f"setting partitions must be at most 4096, not {self.partitions}")
        if math.isinf(self.lease_time):
            raise ValueError("setting lease_time must be finite: a dead worker would keep its partitions forever")
        match, failure = VersionMatch(self.version_match), VersionFailure(self.version_failure)
        if failure is VersionFailure.FAIL and match is VersionMatch.NONE:
            raise ValueError(
                "setting version_failure 'fail' contradicts version_match 'none', which matches everything"
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /, **overrides: Any) -> Self:
        """Settings by ``overrides``, else by ``DURABLE_*`` variables (``DURABLE_LEASE_TIME=5``), else the defaults.

        ``environ`` is the process's environment unless given. Raises ValueError naming variable, value and rule for
        a value that cannot be read or makes no sense, and for a variable that is nearly the name of a setting.
        """
        given = os.environ if environ is None else environ
        read = read_settings(cls, given)
        try:
            return cls(**(read | overrides))
        except ValueError as error:
            blamed = [name for name in read if name not in overrides and name in str(error).split()]
            if not blamed:
                raise
            variables = [PREFIX + name.upper() for name in blamed]
            origins = ", ".join(f"{variable}={given[variable]!r}" for variable in variables)
            raise ValueError(f"{error} (set by {origins} in the environment)") from error
