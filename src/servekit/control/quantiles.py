"""Quantiles of a histogram: pure arithmetic."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of all are, by interpolation within its bucket; None where there are none.

    ``counts`` has one bucket more than there are ``bounds``: of those above the last, it is known that they are, no
    more.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = share * total
    for at, below in enumerate(accumulate(counts)):
        if below >= wanted and counts[at]:
            if at == len(bounds):
                break
            least = bounds[at - 1] if at else 0.0
            return least + (bounds[at] - least) * (1 - (below - wanted) / counts[at])
    return float(bounds[-1])


def rebucketed(counts: Sequence[int], bounds: tuple[float, ...], into: tuple[float, ...]) -> list[int]:
    """The same values in the wider buckets of ``into``, each of which is one of the ``bounds``."""
    return [sum(counts[start:end]) for start, end in _spans(bounds, into)]


@functools.cache
def _spans(bounds: tuple[float, ...], into: tuple[float, ...]) -> list[tuple[int, int]]:
    """Which of the narrower buckets each of the wider ones is."""
    ends = [bounds.index(bound) + 1 for bound in into]
    return list(zip([0, *ends], [*ends, len(bounds) + 1], strict=True))
