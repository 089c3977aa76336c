"""The bundled routing policy ``random``."""

from __future__ import annotations

from collections.abc import Sequence

from servekit.interfaces import BackendView, DrawnUnit, ReplicaView, RequestInfo, RoutingPolicy
from servekit_weighted.options import seeded


class RandomChoice(RoutingPolicy):
    """For each request a random backend, by weight, and a random replica of that backend.

    After n requests a backend of weight w has had n·w, give or take a few times √(n·w·(1 - w)).
    """

    def __init__(self, seed: int | None = None) -> None:
        """
        Args:
            seed: an integer with which the choices can be reproduced; every ingress worker then makes the same ones.
        """
        self._random = self._order = seeded(seed)

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Draw backends from ``seed``; they are drawn in any case."""
        self._order = self._random if seed is None else seeded(seed)
        return DrawnUnit.REQUEST

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        point = self._order.random() * sum(backend.weight for backend in backends)
        for backend in backends:
            point -= backend.weight
            if point < 0:
                return backend
        return backends[-1]  # only where rounding has left ``point`` just above 0

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return replicas[int(self._random.random() * len(replicas))]
