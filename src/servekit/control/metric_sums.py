"""Sums of the counters and histograms of several replicas. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from servekit.wire.control_frames import MetricFamily

MOST_BOUNDS = 200
"""Bounds of buckets in a sum, after revisions of a backend that had others. Those of more revisions are left out."""


def is_sound(family: MetricFamily) -> bool:
    """Whether each series has as many numbers and labels as the family says."""
    numbers = len(family.bounds) + 2 if family.kind == "histogram" else 1
    return all(len(each) == numbers and len(values) == len(family.labels) for values, each in family.series.items())


def add(first: MetricFamily, second: MetricFamily) -> list[MetricFamily]:
    """Their sum: one family; or both, where their labels differ, for no series of one is one of the other."""
    if first.labels != second.labels:
        return [first, second]
    bounds = first.bounds
    if bounds != second.bounds:
        bounds = tuple(sorted({*bounds, *second.bounds}))
        bounds = bounds if len(bounds) <= MOST_BOUNDS else first.bounds
    series = {values: _at(bounds, first, numbers) for values, numbers in first.series.items()}
    for values, numbers in second.series.items():
        more = _at(bounds, second, numbers)
        have = series.get(values)
        series[values] = more if have is None else [a + b for a, b in zip(have, more, strict=True)]
    return [MetricFamily(first.kind, first.name, second.documentation, first.labels, bounds, series)]


def total(families: Iterable[MetricFamily]) -> list[MetricFamily]:
    """The sum of families of one name and kind: as few families as there are sets of labels."""
    sums: dict[tuple[str, ...], MetricFamily] = {}
    for family in families:
        have = sums.get(family.labels)
        sums[family.labels] = family if have is None else add(have, family)[0]
    return list(sums.values())


def _at(bounds: Sequence[float], family: MetricFamily, numbers: list[float]) -> list[float]:
    """A series' numbers at other bounds. At one that the series lacks: how many values were at most the bound below
    it, so that no sum goes back when bounds are added."""
    if bounds == family.bounds:
        return numbers
    own = family.bounds
    *counts, count, summed = numbers
    below = (bisect_right(own, bound) for bound in bounds)
    return [*(counts[at - 1] if at else 0.0 for at in below), count, summed]
