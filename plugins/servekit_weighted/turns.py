"""Which replica's turn it is."""

from __future__ import annotations

from servekit.interfaces import ReplicaView

MAX_REMEMBERED = 1024
"""Replicas whose last turn is known: ids are never used again, so that those of old replicas pile up."""


class Turns:
    """When each replica was last chosen, counted in choices. One that is unknown was last chosen at 0."""

    def __init__(self) -> None:
        self._count = 0
        self._last: dict[str, int] = {}  # in the order of the turns

    def last(self, replica: ReplicaView) -> int:
        return self._last.get(replica.id, 0)

    def take(self, replica: ReplicaView) -> ReplicaView:
        """It is chosen now."""
        self._count += 1
        self._last.pop(replica.id, None)
        self._last[replica.id] = self._count
        if len(self._last) > MAX_REMEMBERED:
            del self._last[next(iter(self._last))]
        return replica
