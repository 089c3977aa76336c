"""The bundled routing policy ``fixed_packing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servekit.interfaces import BackendView, ReplicaView, RequestInfo, RoutingPolicy
from servekit_weighted.split import WeightedSplit
from servekit_weighted.two_choices import TwoChoices


class FixedPacking(RoutingPolicy):
    """``k`` consecutive requests to one backend, the next ``k`` to the next: after the policy of that name in early Ray
    Serve, for backends that answer in batches.

    Which backend is next, the weighted split says; with equal weights, each in turn. Hence after any n requests a
    backend has n·w within k. A run whose backend goes away ends there, and the next begins. Replicas: two choices.
    """

    def __init__(self, k: int = 3, seed: int | None = None) -> None:
        """``seed``: an integer with which the choices among replicas can be reproduced."""
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k is {k!r}: give a whole number of requests to a run, 1 or more")
        self._k = k
        self._split = WeightedSplit()
        self._two_choices = TwoChoices(seed)
        self._current = ""
        self._left = 0

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        """Start counting anew."""
        self._split.traffic_changed(weights)
        self._left = 0

    def choose_backend(self, request: RequestInfo, backends: Sequence[BackendView]) -> BackendView:
        if self._left > 0:
            for backend in backends:
                if backend.name == self._current:
                    self._left -= 1
                    return backend
        backend = self._split.choose_backend(request, backends)
        self._current, self._left = backend.name, self._k - 1
        return backend

    def choose_replica(self, request: RequestInfo, replicas: Sequence[ReplicaView]) -> ReplicaView:
        return self._two_choices(replicas)
