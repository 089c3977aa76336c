"""Routing policies to be compared with the default: ``"policies:RoundRobin"`` in `uneven_servekit.py`."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Sequence

from servekit.interfaces import BackendView, Outcome, ReplicaView, RequestInfo, RoutingPolicy


class _OneBackend(RoutingPolicy):
    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        return backends[0]


class RandomReplica(_OneBackend):
    """Any replica with room."""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return random.choice(replicas)


class RoundRobin(_OneBackend):
    """The replicas in turns; one without room is left out."""

    def __init__(self) -> None:
        self._last = ""

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        in_order = sorted(replicas, key=lambda replica: replica.id)
        chosen = next((replica for replica in in_order if replica.id > self._last), in_order[0])
        self._last = chosen.id
        return chosen


class _TwoChoices(_OneBackend):
    """The better of two random replicas by a load of their own; ties at random."""

    @abstractmethod
    def load(self, replica: ReplicaView) -> float: ...

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        if len(replicas) == 1:
            return replicas[0]
        first, second = random.sample(replicas, 2)
        return second if self.load(second) < self.load(first) else first


class Reported(_TwoChoices):
    """By what this ingress worker has there, or by what the replica last said that it held, if that is more."""

    def load(self, replica: ReplicaView) -> float:
        return max(replica.outstanding, replica.queue_length)


class Expected(_TwoChoices):
    """By when an answer can be expected: how many are there, by how long one of them takes, as seen from here.

    A replica once found slow is rarely asked again while others are idle: this shows what service times are worth, and
    is no policy to be used.
    """

    def __init__(self) -> None:
        self._sent: dict[str, tuple[float, int]] = {}
        """By request id: when, and the place in the replica's queue."""
        self._mean_s: dict[str, float] = {}

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        chosen = super().choose_replica(request, replicas)
        self._sent[request.id] = (time.monotonic(), chosen.outstanding + 1)
        return chosen

    def request_finished(self, request: RequestInfo, replica: ReplicaView, outcome: Outcome) -> None:
        sent_at, place = self._sent.pop(request.id)
        took_s = (time.monotonic() - sent_at) / place
        mean_s = self._mean_s.get(replica.id, took_s)
        self._mean_s[replica.id] = mean_s + 0.2 * (took_s - mean_s)

    def load(self, replica: ReplicaView) -> float:
        """Seconds; next to nothing for a replica of which nothing is known, so that it is tried."""
        return (max(replica.outstanding, replica.queue_length) + 1) * self._mean_s.get(replica.id, 0.001)
