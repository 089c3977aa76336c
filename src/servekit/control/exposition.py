"""Families of metrics as Prometheus and OpenMetrics write them, with a bound on series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from servekit.tallies import BOUNDS

if TYPE_CHECKING:
    from prometheus_client import Metric

MOST_SERIES = 20_000
DROPPED = "servekit_metrics_series_dropped_total"
_LE = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]


@dataclass
class Family:
    """One name, and a value for each combination of its labels' values."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    labels: tuple[str, ...] = ()
    rows: list[tuple[tuple[str, ...], Any]] = field(default_factory=list)
    """Values of the labels, and of these a number; of a histogram the counts by `BOUNDS` and their sum."""

    def add(self, value: Any, *labels: str) -> None:
        self.rows.append((labels, value))

    @property
    def series_per_row(self) -> int:
        return len(_LE) + 2 if self.kind == "histogram" else 1


def bounded(families: Iterable[Family], most: int = MOST_SERIES) -> tuple[list[Family], int]:
    """The families with ``most`` series at most, the first ones; and how many were left out."""
    kept, left, dropped = [], most, 0
    for family in families:
        fitting = min(len(family.rows), left // family.series_per_row)
        dropped += (len(family.rows) - fitting) * family.series_per_row
        left -= fitting * family.series_per_row
        kept.append(Family(family.name, family.kind, family.help, family.labels, family.rows[:fitting]))
    return kept, dropped


def bounded_metrics(metrics: Iterable[Metric], most: int) -> tuple[list[Metric], int]:
    """Those with ``most`` series at most, the first ones, each whole; and how many series were left out."""
    kept, left, dropped = [], most, 0
    for metric in metrics:
        series = len(metric.samples)
        if series <= left:
            kept.append(metric)
            left -= series
        else:
            dropped += series
    return kept, dropped


def render(families: Sequence[Family], accept: str, more: Sequence[Metric] = ()) -> tuple[bytes, str]:
    """The text, and its Content-Type, which is what the client accepts."""
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # A version that is no number.
        encode, content_type = choose_encoder("")
    collector: Any = _Collector(families, more)
    return encode(collector), content_type


class _Collector:
    """What prometheus_client takes for a registry."""

    def __init__(self, families: Sequence[Family], more: Sequence[Metric]) -> None:
        self._families = families
        self._more = more

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        for family in self._families:
            unit = next(
                (unit for unit in ("seconds", "bytes") if family.name.removesuffix("_total").endswith(unit)), ""
            )
            single: Any
            if family.kind == "histogram":
                histogram = core.HistogramMetricFamily(family.name, family.help, labels=family.labels, unit=unit)
                for labels, (counts, total_s) in family.rows:
                    histogram.add_metric(labels, _cumulative(counts), total_s)
                yield histogram
                continue
            if family.kind == "counter":
                single = core.CounterMetricFamily(family.name, family.help, labels=family.labels, unit=unit)
            else:
                single = core.GaugeMetricFamily(family.name, family.help, labels=family.labels, unit=unit)
            for labels, value in family.rows:
                single.add_metric(labels, value)
            yield single
        yield from self._more


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for le, count in zip(_LE, counts, strict=True):
        total += count
        buckets.append((le, float(total)))
    return buckets
