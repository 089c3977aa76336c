"""The bundled routing policy ``weighted``: every backend gets its share of the requests, to within one request."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from servekit.interfaces import BackendView, DrawnUnit, RequestInfo, RoutingPolicy
from servekit_weighted.drawn import DrawnSplit
from servekit_weighted.shares import whole_shares

MAX_REMEMBERED = 64
"""The number of sets of backends whose counts are remembered: k backends have 2**k sets."""


class WeightedSplit(RoutingPolicy):
    """Splits an endpoint's requests by weight: after any n requests a backend of weight w has had n·w, give or take 1.

    The requests are counted for each set of backends that are present together, with their weights relative to each
    other. So a backend that is absent gathers no credit, and a backend that comes and goes shifts nothing between the
    others. Nothing is random, but for the order while a roll-out is judged: see `DrawnSplit`.
    """

    def __init__(self) -> None:
        self._remembered: dict[frozenset[tuple[str, float]], _Split | DrawnSplit] = {}
        self._present: Sequence[BackendView] = ()
        self._positions: list[int] = []
        self._split: _Split | DrawnSplit = _Split([])
        self._chance: random.Random | None = None
        """Draws the order of the backends; None: their order is fixed."""

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        """Count from 0."""
        self._begin()

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Count from 0, in an order that is drawn. Each request goes to a backend of weight w with chance w, and the
        counts of two backends are as exact as ever; those of k backends within ⌈log₂ k⌉."""
        self._chance = None if seed is None else random.Random(seed)
        self._begin()
        return DrawnUnit.NONE if seed is None else DrawnUnit.REQUEST

    def _begin(self) -> None:
        self._remembered.clear()
        self._present = ()

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        if len(backends) == 1:
            return backends[0]
        if backends != self._present:
            self._present_changed(backends)
        return backends[self._positions[self._split.next()]]

    def _present_changed(self, backends: Sequence[BackendView]) -> None:
        """Take up the counts of the time when these same backends, with these weights, were last present."""
        positions = sorted(range(len(backends)), key=lambda position: backends[position].name)
        key = frozenset((backend.name, backend.weight) for backend in backends)
        if key not in self._remembered:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            shares = whole_shares([backends[position].weight for position in positions])
            self._remembered[key] = _Split(shares) if self._chance is None else DrawnSplit(shares, self._chance)
        self._split = self._remembered[key]
        self._positions = positions
        self._present = backends[:]  # a copy: the caller may change its own list in place


class _Split:
    """A sequence of indices in which index i has a share of w[i] in every prefix, to within 1.

    The n-th choice is made among the indices whose count is below n·w. Of those, the index with the earliest deadline
    (count + 1)/w is chosen: at its deadline, an index that is not chosen falls behind by 1 (R. Tijdeman, "The chairman
    assignment problem", Discrete Mathematics 32, 1980). Smooth weighted round robin does not keep that bound: the
    weights 73, 4, 23, 4, 73 take it to 1.045.

    The state is credit = (n·w - count)·total of each index, in integers: exact, and never beyond ±total however many
    requests pass.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        self._shares = shares
        self._total = sum(self._shares)
        self._credits = [0] * len(shares)

    def next(self) -> int:
        total, credits = self._total, self._credits
        chosen, earliest, earliest_share = -1, 1, 0  # later than everything: 1/0
        for index, share in enumerate(self._shares):
            credits[index] = credit = credits[index] + share
            # (count + 1)/w, counted from now, is (total - credit)/share; compared without dividing, to stay exact.
            if credit > 0 and (total - credit) * earliest_share < earliest * share:
                chosen, earliest, earliest_share = index, total - credit, share
        credits[chosen] -= total
        return chosen
