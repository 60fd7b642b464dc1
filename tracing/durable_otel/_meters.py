"""How the instruments of this package are made: one meter, buckets for seconds, gauges that ask when they are read.

Rule of this file: an attribute has few values; nothing tells instances apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakMethod

from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter,
    get_meter_provider,
)

_SECONDS = [0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 3600]
_SHORT = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5]
_EVENTS = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000]

Observe: TypeAlias = Callable[[], Iterable[tuple[float, Mapping[str, Any]]]]
"""Gives values with their attributes. A method: it is not asked any more when its object is gone."""

_observed: WeakKeyDictionary[MeterProvider, dict[str, tuple[WeakMethod[Observe], ...]]] = WeakKeyDictionary()
"""Whom each gauge of a provider asks. It takes one callback for each, and a process may have several hubs."""


class Meters:
    """Makes instruments of the provider given, or of the process's."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self._provider = provider or get_meter_provider()
        self._meter: Meter = get_meter("durable", meter_provider=self._provider)

    def counter(self, name: str, unit: str, what: str) -> Counter:
        """Counts things of that unit."""
        return self._meter.create_counter(name, f"{{{unit}}}", what)

    def seconds(self, name: str, what: str, *, short: bool = False) -> Histogram:
        """How long something took; ``short`` for what takes milliseconds."""
        buckets = _SHORT if short else _SECONDS
        return self._meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=buckets)

    def events(self, name: str, what: str) -> Histogram:
        """A number of history events."""
        return self._meter.create_histogram(name, "{event}", what, explicit_bucket_boundaries_advisory=_EVENTS)

    def gauge(self, name: str, unit: str, what: str, observe: Observe) -> None:
        """The values of the moment at which it is read, in the reader's thread."""
        callbacks = self._callbacks(name, observe)
        if callbacks:
            self._meter.create_observable_gauge(name, callbacks, unit, what)

    def sum(self, name: str, unit: str, what: str, observe: Observe) -> None:
        """As a gauge, of what may be added up over processes."""
        callbacks = self._callbacks(name, observe)
        if callbacks:
            self._meter.create_observable_up_down_counter(name, callbacks, unit, what)

    def _callbacks(self, name: str, observe: Observe) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        """The callback of a new gauge; none where there is that gauge already, which asks ``observe`` now, too."""
        by_name = _observed.setdefault(self._provider, {})
        others = by_name.get(name)
        by_name[name] = (*(one for one in others or () if one() is not None), WeakMethod(observe))

        def callback(options: CallbackOptions) -> Iterable[Observation]:
            asked = [one() for one in by_name[name]]
            return [Observation(*each) for one in asked if one is not None for each in one()]

        return [callback] if others is None else []
