"""Settings of a hub and its workers: one frozen value, each field with its unit and default."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from durable.core.versions import VersionFailure, VersionMatch

_MAY_BE_ZERO = ("gc_threshold",)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a hub and the workers in this process behave. Times are in seconds.

    Raises ValueError for a value that makes no sense, naming it.
    """

    partitions: int = 16
    """Partitions of a new task hub; an existing hub keeps the count it was created with."""
    lease_time: float = 10.0
    """How long a worker that does not answer keeps its partitions; fail-over takes at most twice that."""
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
    version: str | None = None
    """The version of the orchestrators here; the one that instances are started with unless they say otherwise."""
    version_match: VersionMatch = VersionMatch.NONE
    """Which instances this worker runs, by their version: all, those of its own, or also older ones."""
    version_failure: VersionFailure = VersionFailure.REJECT
    """What becomes of a new instance that does not match: it is parked, or it fails."""
    drain_time: float = 30.0
    """How long a stopping worker lets running activities end before it cancels them."""
    start_timeout: float = 10.0
    """How long ``start`` waits for the store before it raises BackendUnavailable."""
    blocked_turn: float = 0.25
    """A turn that keeps the thread longer than this is reported with its stack; ``math.inf``: none is."""

    gc_threshold: int = 20_000
    """Young objects at which Python's garbage collector runs while a worker does (a setting of the whole
    process, given back when the worker stops); 0 leaves it alone."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) or value is None:
                continue
            if value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
                raise ValueError(f"setting {field.name} must be greater than zero, not {value!r}")
        VersionMatch(self.version_match)
        VersionFailure(self.version_failure)
        if self.partitions > 4096:
            raise ValueError(f"setting partitions must be at most 4096, not {self.partitions}")
