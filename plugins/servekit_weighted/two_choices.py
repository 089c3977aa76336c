"""The default choice of a replica, with a generator of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import ReplicaView
from servekit_weighted.options import seeded


class TwoChoices:
    """The better of two distinct random replicas by outstanding requests (Mitzenmacher, 2001)."""

    def __init__(self, seed: int | None) -> None:
        self._random = seeded(seed)

    def __call__(self, replicas: Sequence[ReplicaView]) -> ReplicaView:
        count = len(replicas)
        if count == 1:
            return replicas[0]
        first = int(self._random.random() * count)
        second = int(self._random.random() * (count - 1))
        if second >= first:
            second += 1
        return min(replicas[first], replicas[second], key=lambda replica: replica.outstanding)
