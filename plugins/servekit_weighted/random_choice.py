"""The bundled routing policy ``random``."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import BackendView, ReplicaView, RequestInfo, RoutingPolicy
from servekit_weighted.options import seeded


class RandomChoice(RoutingPolicy):
    """A backend at random by weight, and one of its replicas at random, each request for itself.

    After n requests a backend of weight w has had n·w, give or take some √(n·w·(1 - w)).
    """

    def __init__(self, seed: int | None = None) -> None:
        """``seed``: an integer with which the choices can be reproduced, alike in every ingress worker."""
        self._random = seeded(seed)

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        point = self._random.random() * sum(backend.weight for backend in backends)
        for backend in backends:
            point -= backend.weight
            if point < 0:
                return backend
        return backends[-1]  # by rounding alone

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return replicas[int(self._random.random() * len(replicas))]
