"""What a replica tells the controller of its metrics: the handler's own, and those of batches. Cumulative, so that it
does not matter which of it arrives, as long as the last does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from servekit.metrics import Definition, Recorder
from servekit.replica.histograms import ValueHistogram
from servekit.wire.control_frames import MetricFamily, MetricsTold

if TYPE_CHECKING:
    from prometheus_client import Metric

MOST_OF_TIME = 0.01
"""The part of the time that may go into looking whether there is news."""


class MetricsTeller:
    """Knows what of a replica's metrics was told. Lives on the control link's loop."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.perf_counter) -> None:
        self._recorder = recorder
        self._clock = clock
        self._told: dict[str, MetricFamily] = {}
        self._dropped = 0
        self._not_before = 0.0

    def forget(self) -> None:
        """Nothing was told yet: the link is new."""
        self._told.clear()
        self._dropped = self._not_before = 0

    def news(self, histograms: Iterable[ValueHistogram] = (), *, last: bool = False) -> MetricsTold | None:
        """What has changed since the last time; None where that is nothing. ``last``: nobody asks again."""
        began = self._clock()
        if began < self._not_before and not last:
            return None
        families = [*self._families(), *(each.family() for each in histograms if not each.is_empty)]
        news = [family for family in families if family != self._told.get(family.name)]
        self._told.update({family.name: family for family in news})
        dropped, was_dropped = self._recorder.dropped, self._dropped
        self._dropped = dropped
        ended = self._clock()
        self._not_before = ended + (ended - began) / MOST_OF_TIME
        return MetricsTold(news, dropped) if news or dropped != was_dropped else None

    def _families(self) -> Iterator[MetricFamily]:
        defined = self._recorder.defined
        for metric in self._recorder.collect():
            if metric.name in defined:  # Else it is made in this moment.
                yield _family(metric, defined[metric.name])


def _family(metric: Metric, definition: Definition) -> MetricFamily:
    kind, name, labels = definition.kind, definition.name, definition.labels
    series: dict[tuple[str, ...], list[float]] = {}
    told = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum")}[kind]
    for sample in metric.samples:  # Those of the buckets come in the order of their bounds, and the sum behind them.
        if sample.name.removeprefix(name) in told:
            series.setdefault(tuple(sample.labels[label] for label in labels), []).append(sample.value)
    return MetricFamily(kind, name, definition.documentation, labels, definition.bounds, series)
