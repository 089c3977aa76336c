"""Families of metrics as Prometheus and OpenMetrics write them, with a bound on series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from servekit.tallies import BOUNDS

if TYPE_CHECKING:
    from prometheus_client import Metric

MOST_SERIES = 20_000
"""Of servekit's own."""
MOST_TOLD_SERIES = 20_000
"""Of replicas: room of their own, so that neither pushes out the other."""
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


def bounded(
    families: Iterable[Family], most: int = MOST_SERIES, is_old: Callable[[dict[str, str]], bool] = lambda labels: False
) -> tuple[list[Family], int]:
    """The families with ``most`` series at most, the first ones; and how many were left out.

    ``is_old``: by its labels, whether a row is to be left out before the rows of any family that are not.
    """
    found = list(families)
    kept = [Family(family.name, family.kind, family.help, family.labels) for family in found]
    left, dropped = most, 0
    rows: list[list[list[Any]]] = []
    for family in found:
        new_and_old: list[list[Any]] = [[], []]
        for row in family.rows:
            new_and_old[is_old(dict(zip(family.labels, row[0], strict=True)))].append(row)
        rows.append(new_and_old)
    for old in (False, True):
        for family, of_family in zip(kept, rows, strict=True):
            fitting = min(len(of_family[old]), left // family.series_per_row)
            dropped += (len(of_family[old]) - fitting) * family.series_per_row
            left -= fitting * family.series_per_row
            family.rows += of_family[old][:fitting]
    return kept, dropped


def bounded_metrics(parts: Iterable[Metric], most: int) -> tuple[list[Metric], int]:
    """The metrics whose parts these are, with ``most`` series at most: the first parts, each whole; and how many series
    were left out."""
    kept: dict[str, Metric] = {}
    left, dropped = most, 0
    for part in parts:
        series = len(part.samples)
        if series > left:
            dropped += series
            continue
        left -= series
        if part.name in kept:
            kept[part.name].samples.extend(part.samples)
        else:
            kept[part.name] = part
    return list(kept.values()), dropped


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
