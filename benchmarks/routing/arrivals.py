"""When requests arrive, and what percentiles are: pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def poisson(rate: float, duration_s: float, seed: int) -> list[float]:
    """Arrival times, from 0 to ``duration_s``, of a Poisson process with ``rate`` arrivals a second."""
    draw = random.Random(seed)
    arrivals, now = [], draw.expovariate(rate)
    while now < duration_s:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of ``values`` do not exceed (nearest rank)."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def largest_share(counts: Sequence[int]) -> float:
    """What part of all the largest has, in percent."""
    return 100 * max(counts) / sum(counts)
