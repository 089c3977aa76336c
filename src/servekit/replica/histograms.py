"""Histograms that servekit itself keeps in a replica, without a lock: values come from the data loop alone."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from servekit.wire.control_frames import MetricFamily


class ValueHistogram:
    """Counts values by buckets. `family` may be called in any thread."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def is_empty(self) -> bool:
        return not any(self._counts)

    def family(self) -> MetricFamily:
        numbers = [*map(float, accumulate(self._counts)), self._sum]
        return MetricFamily("histogram", self._name, self._documentation, (), self._bounds, {(): numbers})


class BatchHistograms:
    """Of the batches of one replica."""

    def __init__(self) -> None:
        self.sizes = ValueHistogram(
            "servekit_batch_size", "Calls in each batch", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        )
        self.waits = ValueHistogram(
            "servekit_batch_wait_seconds",
            "How long the first call of each batch waited for others and for a slot",
            (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )
