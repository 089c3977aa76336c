"""Where the quantiles of durations are, by the buckets of a `Sample`: as exactly as the buckets say it, and no more."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from servekit.interfaces import Sample
from servekit_judges.evidence import ABOVE, BELOW, Counts, bets_against, reaches


def quantile_bucket(sample: Sample, quantile: float) -> tuple[float, float]:
    """The bounds of the bucket that this quantile of the sample's own durations is in: above the first, at most the
    second, which is infinite in the last bucket. Of no durations: 0 and infinity."""
    rank = math.ceil(quantile * sum(sample.durations)) or 1
    at = bisect_left(list(accumulate(sample.durations)), rank)
    return sample.bounds[at - 1] if at else 0.0, sample.bounds[at] if at < len(sample.bounds) else math.inf


class QuantileLimits:
    """Between which bounds one quantile of a version's durations certainly is.

    A quantile q is above a bound where more than 1 - q of the durations are: so a bet on that rate tells. As the bets
    are the same for all bounds, and what is certain of a bound is so of those below it, looking at all bounds makes no
    error more likely than looking at one (Howard and Ramdas, arXiv 1906.09712).
    """

    def __init__(self, quantile: float, chance: float) -> None:
        """
        Args:
            chance: how likely it may be that what `least` says is ever wrong; and `most` likewise.
        """
        self._needed = -math.log(chance)
        self._above = bets_against(1 - quantile, ABOVE)
        self._below = bets_against(1 - quantile, BELOW)

    def least(self, sample: Sample) -> float:
        """The largest bound that the quantile is certainly above; 0 where there is none."""
        at = self._first(sample, lambda counts: not reaches(self._above, counts, self._needed))
        return sample.bounds[at - 1] if at else 0.0

    def most(self, sample: Sample) -> float:
        """The smallest bound that the quantile is certainly at most; infinity where there is none."""
        at = self._first(sample, lambda counts: reaches(self._below, counts, self._needed))
        return sample.bounds[at] if at < len(sample.bounds) else math.inf

    def _first(self, sample: Sample, holds: Callable[[Counts], bool]) -> int:
        """The index of the first bound where ``holds`` is true of how many durations are above it, and remains so."""
        counted = list(accumulate(sample.durations))
        trials = counted[-1] if counted else 0
        return bisect_left(range(len(sample.bounds)), True, key=lambda at: holds(Counts(trials - counted[at], trials)))
