"""Weights as whole numbers, so that splits are exact however many requests there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def whole_shares(weights: Sequence[float]) -> list[int]:
    """The weights in whole numbers, which have no common factor: 9 and 1 for 0.9 and 0.1.

    Each is the simplest fraction near its float: 0.1 is 1/10 here.
    """
    whole = sum(weights)
    fractions = [Fraction(weight / whole).limit_denominator(10**9) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]
