"""The bundled routing policies ``round_robin`` and ``least_loaded``, which remember whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import ReplicaView, RequestInfo
from servekit_weighted.split import WeightedSplit

MAX_REMEMBERED = 1024
"""The number of replicas that a policy remembers. An id is never used again, so the ids of old replicas pile up."""
FRESH_ROUNDS = 16
"""A replica's queue length is believed until that replica was passed over so many times the number of replicas."""


class _Turns:
    """The order in which replicas were chosen: each replica's last choice, by its number. An unknown replica has 0."""

    def __init__(self) -> None:
        self._count = 0
        self._last: dict[str, int] = {}  # in the order of the choices

    def last(self, replica: ReplicaView) -> int:
        return self._last.get(replica.id, 0)

    def take(self, replica: ReplicaView) -> ReplicaView:
        """Note that ``replica`` is chosen now, and return it."""
        self._count += 1
        self._last.pop(replica.id, None)
        self._last[replica.id] = self._count
        if len(self._last) > MAX_REMEMBERED:
            del self._last[next(iter(self._last))]
        return replica


class RoundRobin(WeightedSplit):
    """Backends by the weighted split, and the replicas of each backend in turn, whatever their load.

    The replica that was chosen longest ago is next, so that a replica without room loses only the turns that it could
    not take. Nothing is random: the same calls get the same choices.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns = _Turns()

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return self._turns.take(min(replicas, key=self._turns.last))


class LeastLoaded(WeightedSplit):
    """Backends by the weighted split, and of each backend the replica with the least load.

    The load of a replica is the number of requests that this ingress worker has outstanding there, plus the replica's
    `queue_length`: the requests from every ingress worker that the replica held when it last answered. A replica
    reports no new queue length before its next request, so that a replica that was busy once would never be chosen
    again. Therefore a queue length counts for `FRESH_ROUNDS` only. Among equal loads, the replica that was chosen
    longest ago is next: the same calls get the same choices.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns = _Turns()
        self._passed_over: dict[str, int] = {}
        """The number of choices that passed over a replica since the replica last reported a queue, by replica id.
        Only replicas without outstanding requests of this ingress worker are counted: the others report soon."""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        fresh, passed_over = FRESH_ROUNDS * len(replicas), self._passed_over

        def load(replica: ReplicaView) -> tuple[int, int]:
            is_fresh = passed_over.get(replica.id, 0) < fresh
            return replica.outstanding + (replica.queue_length if is_fresh else 0), self._turns.last(replica)

        chosen = min(replicas, key=load)
        if len(passed_over) > MAX_REMEMBERED:
            passed_over.clear()
        for replica in replicas:
            if replica.queue_length and not replica.outstanding:
                passed_over[replica.id] = passed_over.get(replica.id, 0) + 1
        passed_over.pop(chosen.id, None)
        return self._turns.take(chosen)
