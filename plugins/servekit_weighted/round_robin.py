"""The bundled routing policy ``round_robin``."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import ReplicaView, RequestInfo
from servekit_weighted.split import WeightedSplit
from servekit_weighted.turns import Turns


class RoundRobin(WeightedSplit):
    """Backends by the weighted split, and the replicas of each in turn, whatever their load.

    The turn is with the replica that was chosen longest ago, so that one without room loses only the turns that it
    could not take. There is no chance in it: the same calls get the same choices.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns = Turns()

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return self._turns.take(min(replicas, key=self._turns.last))
