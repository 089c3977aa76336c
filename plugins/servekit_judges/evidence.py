"""How much counts say of rates, at whatever moments one looks: the statistics of the judge ``sequential``.

**One rate.** Of ``trials``, ``hits`` are errors, say. The hypothesis is that the rate is at most p. A bet against it is
on a rate p' above p: each trial multiplies the stake by how much likelier p' made that trial's outcome than p did. If
the hypothesis is true, the stake is a nonnegative supermartingale, so the chance that it is *ever* C times what it was
is at most 1/C (Ville, 1939). Here the stake is spread over bets on nine rates, from far away to near, and a fifth is
kept out of the game; a mixture of such bets is one too (Robbins, 1970; Howard, Ramdas, McAuliffe and Sekhon,
arXiv 1810.08240). It depends on the counts alone, not on when one has looked before.

**Two rates.** The hypothesis is that the candidate's rate is at most the baseline's. If that is true, there is a p with
the candidate's rate at or below it and the baseline's at or above it; so both bets against that p are supermartingales,
and so is their product. Which p it is, nobody knows: where the product is C for the p that is worst for us, the chance
of that is at most 1/C. That is an e-process by the infimum over the null, as in universal inference (Wasserman, Ramdas
and Balakrishnan, 2020) and the safe tests of two proportions (Turner, Ly and Grünwald, arXiv 2106.02693), which need
blocks of a fixed size where this needs counts alone. A margin moves p for one of the two.

All logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

KEPT = 0.2
"""The part of the stake that is on no rate: it bounds what the evidence of one version can take from the other's."""
DISTANCES = tuple(4.0 * 0.5**n for n in range(9))
"""How far the rates that are bet on are from the hypothesis, as differences of log odds."""
_BETS = ((0.0, math.log(KEPT)), *((distance, math.log((1 - KEPT) / len(DISTANCES))) for distance in DISTANCES))
_LOG_COUNT = math.log(len(_BETS))
_FURTHEST = 40.0
"""Log odds beyond which a rate is taken for 0 or 1: no counts tell it from them."""
_MOST_SPLITS = 200

ABOVE, BELOW = 1, -1
"""The side of the hypothesis that a bet is on."""

Bets: TypeAlias = "Sequence[tuple[float, float, float]]"
"""For each bet, logarithms: the stake, and what a hit and a trial multiply it by."""


class Counts(NamedTuple):
    """Hits among trials; a hit is whatever the rate is of."""

    hits: int
    trials: int

    @property
    def rate(self) -> float:
        return self.hits / self.trials if self.trials else 0.0


def bets_against(rate: float, side: int) -> Bets:
    """Bets that the true rate is on that side of ``rate``."""
    return _bets(_log_odds(rate), side)


def log_evidence(bets: Bets, counts: Counts) -> float:
    """The logarithm of how many times its stake the bets have made. Under the hypothesis, the chance that it is ever
    log(C) or more is at most 1/C."""
    return _log_sum(_gains(bets, counts))


def reaches(bets: Bets, counts: Counts, needed: float) -> bool:
    """Whether `log_evidence` is that much."""
    gains = _gains(bets, counts)
    most = max(gains)
    # Mostly this is told by the best bet alone: exponentials cost more than all else.
    return most >= needed or (most + _LOG_COUNT >= needed and _log_sum(gains) >= needed)


def is_certain(candidate: Counts, baseline: Counts, side: int, chance: float, bound: Callable[[float], float]) -> bool:
    """Whether the candidate's rate is certainly on that side of ``bound(the baseline's rate)``.

    Args:
        chance: how likely it may be that this is ever True where it is wrong.
        bound: rises with its argument, and is no smaller.
    """
    needed = -math.log(chance)

    def of_candidate(log_odds: float) -> float:
        rate = bound(_rate(log_odds))
        if rate > 1 and side == BELOW:  # no rate is that high
            return math.inf
        return log_evidence(_bets(_log_odds(rate), side), candidate)

    def of_baseline(log_odds: float) -> float:
        return log_evidence(_bets(log_odds, -side), baseline)

    # What the versions would have in common, if they differed by no more than the bound: there the evidence is least.
    hits = baseline.hits + candidate.hits - candidate.trials * (bound(baseline.rate) - baseline.rate)
    worst = _log_odds(hits / max(1, baseline.trials + candidate.trials))
    if of_candidate(worst) + of_baseline(worst) < needed:
        return False
    rising, falling = (of_baseline, of_candidate) if side == ABOVE else (of_candidate, of_baseline)
    return _is_least(rising, falling, needed, worst)


def _is_least(rising: Callable[[float], float], falling: Callable[[float], float], needed: float, worst: float) -> bool:
    """Whether the sum of a function that rises and one that falls is nowhere below ``needed``: proven, for between two
    points the sum is at least the first at the lower one and the second at the upper one."""
    spans = [(low, high, rising(low), falling(high)) for low, high in ((-_FURTHEST, worst), (worst, _FURTHEST))]
    for _ in range(_MOST_SPLITS):
        if not spans:
            return True
        low, high, least_rising, least_falling = spans.pop()
        if least_rising + least_falling >= needed:
            continue
        middle = (low + high) / 2
        risen, fallen = rising(middle), falling(middle)
        if risen + fallen < needed:
            return False
        spans += ((low, middle, least_rising, fallen), (middle, high, risen, least_falling))
    return False  # so near to it that the next requests will tell


def _gains(bets: Bets, counts: Counts) -> list[float]:
    hits, trials = counts
    return [stake + hits * of_hit + trials * of_trial for stake, of_hit, of_trial in bets]


def _log_sum(logarithms: list[float]) -> float:
    """The logarithm of the sum of what these are the logarithms of."""
    most = max(logarithms)
    return most + math.log(sum([math.exp(each - most) for each in logarithms]))


def _bets(log_odds: float, side: int) -> Bets:
    here = _log_one_plus_exp(log_odds)
    return [
        (stake, side * distance, here - _log_one_plus_exp(log_odds + side * distance) if distance else 0.0)
        for distance, stake in _BETS
    ]


def _log_odds(rate: float) -> float:
    if rate <= 0.0:
        return -_FURTHEST
    return _FURTHEST if rate >= 1.0 else math.log(rate) - math.log1p(-rate)


def _rate(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))


def _log_one_plus_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
