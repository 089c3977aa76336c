"""What became of requests, and what follows from it: all of it pure.

Times are those of ``time.monotonic()``, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WRONG = "wrong"
"""The kind of a 200 that does not answer what was sent."""
UNANSWERED = "unanswered"
"""The kind of a request that was under way when its client ended."""


class Outcome(NamedTuple):
    """What became of one request."""

    id: str
    method: str
    sent_s: float
    ended_s: float
    kind: str
    """Empty for one that was answered as it should be. Else its status, the exception, `WRONG` or `UNANSWERED`."""
    by: int
    """The process that answered; 0 where none did."""


@dataclass(frozen=True)
class Counts:
    sent: int
    answered: int
    wrong: int
    failed: Counter[tuple[str, str]]
    """By method and kind; `WRONG` ones among them."""

    def __str__(self) -> str:
        return f"{sum(self.failed.values())} of {self.sent} failed{': ' if self.failed else ''}{kinds(self.failed)}"


def counts(outcomes: Iterable[Outcome]) -> Counts:
    every = list(outcomes)
    failed = Counter((one.method, one.kind) for one in every if one.kind)
    wrong = sum(one.kind == WRONG for one in every)
    return Counts(len(every), len(every) - failed.total(), wrong, failed)


def kinds(failed: Counter[tuple[str, str]]) -> str:
    """In words, the most frequent first: ``12 POST 502, 1 GET timeout``."""
    return ", ".join(f"{count:,} {method} {kind}" for (method, kind), count in failed.most_common())


def under_way(outcomes: Iterable[Outcome], moment_s: float) -> list[Outcome]:
    """Those that had been sent at that moment, and had not ended."""
    return [one for one in outcomes if one.sent_s <= moment_s <= one.ended_s]


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.kind]


def longest_gap_s(outcomes: Iterable[Outcome], since_s: float, until_s: float) -> float:
    """The longest time without a success between the two moments, over all connections."""
    ends = sorted(one.ended_s for one in outcomes if not one.kind and since_s < one.ended_s < until_s)
    edges = [since_s, *ends, until_s]
    return max(later - earlier for earlier, later in itertools.pairwise(edges))


def first_success_s(outcomes: Iterable[Outcome], moment_s: float) -> float | None:
    """From that moment to the first answer to a request that was sent after it; None where there is none."""
    ends = [one.ended_s for one in outcomes if not one.kind and one.sent_s >= moment_s]
    return min(ends) - moment_s if ends else None


def recovery_s(outcomes: Sequence[Outcome], moment_s: float, slow_s: float) -> float | None:
    """From that moment to the one since when every request was answered, and none of them took ``slow_s`` or longer.

    0 where nothing failed or was slow after the moment; None where it has not come.
    """
    later = [one for one in outcomes if one.ended_s > moment_s]
    bad = [one.ended_s for one in later if one.kind or one.ended_s - one.sent_s > slow_s]
    if not bad:
        return 0.0
    last_s = max(bad)
    return last_s - moment_s if any(not one.kind and one.sent_s >= last_s for one in later) else None


def from_line(line: str) -> Outcome:
    """As `clients` writes it."""
    return Outcome(*json.loads(line))
