"""The bundled routing policy ``least_loaded``."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import ReplicaView, RequestInfo
from servekit_weighted.split import WeightedSplit
from servekit_weighted.turns import MAX_REMEMBERED, Turns

FRESH_ROUNDS = 16
"""A replica that was passed over so many times as there are replicas to choose from may have emptied its queue."""


class LeastLoaded(WeightedSplit):
    """Backends by the weighted split, and of each the replica with the least load.

    Load is what this ingress worker has outstanding there, and what the replica said that it held, from every ingress
    worker, when it last answered (`queue_length`). As it says nothing new until it is asked again, that word counts
    for `FRESH_ROUNDS` only: a replica that was busy once would else be left out for good. Of equals, the one chosen
    longest ago: the same calls get the same choices.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns = Turns()
        self._passed_over: dict[str, int] = {}
        """How often those were that have nothing of ours to answer, and said that they were busy."""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        fresh, passed_over = FRESH_ROUNDS * len(replicas), self._passed_over

        def load(replica: ReplicaView) -> tuple[int, int]:
            heard = passed_over.get(replica.id, 0) < fresh
            return replica.outstanding + (replica.queue_length if heard else 0), self._turns.last(replica)

        chosen = min(replicas, key=load)
        if len(passed_over) > MAX_REMEMBERED:
            passed_over.clear()
        for replica in replicas:
            if replica.queue_length and not replica.outstanding:
                passed_over[replica.id] = passed_over.get(replica.id, 0) + 1
        passed_over.pop(chosen.id, None)
        return self._turns.take(chosen)
