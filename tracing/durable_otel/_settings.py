"""How traces are made and exported: one frozen value, each field with its unit and default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from durable.projection import RootSpan, TraceMode


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What an instance's trace looks like, and how it gets out. Raises ValueError for a value that makes no sense."""

    trace: TraceMode = "own"
    """A trace for each instance, linked with its caller's; or ``join``: a part of the caller's trace."""
    root_span: RootSpan = "on_completion"
    """When the span of the instance comes out; ``at_start`` for stores that refuse what is older than a day."""
    cadence: Literal["commit", "completion"] = "commit"
    """When spans are exported: as they end; or all of an instance at its end, which costs less."""
    sample: float = 1.0
    """Share of the instances that are traced, 0 to 1, decided by their trace id; a sampled caller's always are, and one
    that is not sampled never is."""
    export_failed: bool = True
    """Whether instances that end badly are exported at their end all the same."""
    export_slower_than: float | None = None
    """Seconds; instances that took longer are exported at their end all the same."""
    baggage: frozenset[str] = frozenset()
    """Names of baggage entries that a start carries along. They are stored with the instance."""
    cpu_share: float | None = None
    """Share of one processor, above 0 to 1, that exporting may take however busy the process is; it takes a quarter of
    what the process leaves idle where that is more. Instances come first: what it does not get done waits, in memory
    and then in the store. None: 0.05, or 0.02 with cadence ``completion``."""
    max_pending: int = 20_000
    """Committed turns that wait for export in memory; what is beyond is read from the store later."""
    max_bytes: int = 64 * 1024 * 1024
    """Bound on the values in those turns."""
    max_instances: int = 10_000
    """Instances under way whose open intervals are kept in memory; others are read from the store when they go on."""
    catch_up: float = 600.0
    """Seconds; of partitions that a worker gains, instances that changed within this time are exported (again)."""
    catch_up_instances: int = 2_000
    """How many of the newest instances are looked at for that."""
    flush_timeout: float = 5.0
    """Seconds for which closing the hub waits for the last spans to be exported."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ValueError(f"sample must be 0 to 1, not {self.sample!r}")
        if self.cpu_share is not None and not 0 < self.cpu_share <= 1:
            raise ValueError(f"cpu_share must be above 0 and at most 1, not {self.cpu_share!r}")
        for name in ("max_pending", "max_bytes", "max_instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)!r}")
        if self.trace not in ("own", "join") or self.root_span not in ("on_completion", "at_start"):
            raise ValueError(f"trace must be own or join, root_span on_completion or at_start: {self!r}")
        if self.cadence not in ("commit", "completion"):
            raise ValueError(f"cadence must be commit or completion, not {self.cadence!r}")

    @property
    def share(self) -> float:
        """``cpu_share``, or what it is by default."""
        if self.cpu_share is not None:
            return self.cpu_share
        return 0.05 if self.cadence == "commit" else 0.02


def sample_of(environment: Mapping[str, str]) -> float:
    """The share that ``OTEL_TRACES_SAMPLER`` and its argument ask for; 1 where they ask for nothing.

    Raises ValueError for an argument that is no number from 0 to 1.
    """
    sampler = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower().removeprefix("parentbased_")
    if sampler == "always_off":
        return 0.0
    if sampler != "traceidratio":
        return 1.0
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError(f"OTEL_TRACES_SAMPLER_ARG must be 0 to 1, not {text!r}")
    return share
