"""Splits whose order is drawn by chance, for while a roll-out is judged.

An exact split is aliased: of requests that are light and heavy in turns, one of two equal versions gets all the heavy
ones. Chance alone would be no split: of 1,000 requests at 0.1, some 70 or some 130. These are both.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


class DrawnPair:
    """Of two versions, says for each request whether the second one, of share w, has it.

    Each request goes there with chance w, exactly; and of any first n requests it has had n·w, rounded down or up: so
    neither version is ever 1 away. It is ahead where n·w was rounded up. That is so with chance p, the fraction of n·w:

    * Where p + w is below 1, the next one is not for it while it is ahead, and else is with chance w/(1 - p).
    * Where p + w is 1 or more, the next one is for it while it is not ahead, and else is with chance (p + w - 1)/p.

    Over both, ahead or not, that is a chance of w; and the chance to be ahead is then p + w, in the second case less 1.
    Where 1/w is a whole number, it has one request in each block of 1/w, with the same chance in each place.
    """

    def __init__(self, share: int, total: int, chance: random.Random) -> None:
        """``share`` of each ``total`` requests are for the second one."""
        self._share = share
        self._total = total
        self._below = chance.randrange
        self._part = 0
        """The fraction p, of ``total``."""
        self._ahead = False

    def next(self) -> int:
        """0 or 1."""
        share, total, part, ahead = self._share, self._total, self._part, self._ahead
        after = part + share
        if after < total:
            self._part = after
            if ahead:
                return 0
            self._ahead = self._below(total - part) < share
            return int(self._ahead)
        self._part = after = after - total
        if not ahead:
            return 1
        self._ahead = self._below(part) < after
        return int(self._ahead)


class DrawnSplit:
    """Any number of versions: halved, and each half halved again, by a `DrawnPair` each time.

    Each request goes to a version with chance exactly its share. Two versions are never 1 away from theirs; more than
    two, never so many as there are halvings above them: 2 for up to four versions, 3 for up to eight.
    """

    def __init__(self, shares: Sequence[int], chance: random.Random) -> None:
        """``shares``: of two or more versions, in requests out of their sum."""
        middle = (len(shares) + 1) // 2
        self._pair = DrawnPair(sum(shares[middle:]), sum(shares), chance)
        self._halves = [_half(shares[:middle], 0, chance), _half(shares[middle:], middle, chance)]

    def next(self) -> int:
        first, split = self._halves[self._pair.next()]
        return first if split is None else first + split.next()


def _half(shares: Sequence[int], first: int, chance: random.Random) -> tuple[int, DrawnSplit | None]:
    """The first index, and the split of those from there on; None: there is one alone."""
    return first, None if len(shares) == 1 else DrawnSplit(shares, chance)
