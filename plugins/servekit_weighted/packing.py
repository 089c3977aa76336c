"""The bundled routing policy ``fixed_packing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servekit.interfaces import BackendView, DrawnUnit, ReplicaView, RequestInfo, RoutingPolicy, two_choices
from servekit_weighted.options import seeded
from servekit_weighted.split import WeightedSplit


class FixedPacking(RoutingPolicy):
    """Runs of ``k`` requests: ``k`` requests in a row go to one backend, and the next ``k`` to the next backend.

    The policy of that name in early Ray Serve did so, for backends that answer in batches. The weighted split chooses
    the backend of each run, so that after any n requests a backend of weight w has had n·w, give or take k. A run ends
    early where its backend goes away. Replicas are chosen by `two_choices`.
    """

    def __init__(self, k: int = 3, seed: int | None = None) -> None:
        """
        Args:
            k: the length of a run, in requests.
            seed: an integer with which the choices among replicas can be reproduced.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k is {k!r}: give a whole number of requests to a run, 1 or more")
        self._k = k
        self._split = WeightedSplit()
        self._random = seeded(seed)
        self._current = ""
        self._left = 0

    def traffic_changed(self, weights: Mapping[str, float]) -> None:
        """Begin a new run, and count shares from 0."""
        self._split.traffic_changed(weights)
        self._left = 0

    def draw_order(self, seed: int | None) -> DrawnUnit:
        """Draw the backend of each run. The requests of a run go together, as those of a client do elsewhere."""
        drawn = self._split.draw_order(seed)
        self._left = 0
        return DrawnUnit.KEY if drawn is DrawnUnit.REQUEST and self._k > 1 else drawn

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
        return two_choices(replicas, self._random.random)
