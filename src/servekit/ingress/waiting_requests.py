"""What an ingress worker tells the controller of requests that have no replica yet: what autoscaling is to know."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from servekit.ingress.backend import Backend
from servekit.ingress.endpoint import Endpoint


class WaitingRequests:
    """Requests that wait, by backend. A request that waits at an endpoint, for any backend, is counted once.

    They are shared by the endpoint's weights, as the requests will be: counted for each backend, a few that wait would
    start replicas of every version, also of one that is to get a hundredth of them.
    """

    def __init__(self) -> None:
        self._missed: dict[str, float] = {}

    def take(
        self, endpoints: Collection[Endpoint], backends: Collection[Backend], failovers: Mapping[str, int]
    ) -> dict[str, int]:
        """``failovers``: requests by endpoint, since the last call, that went elsewhere for want of a replica."""
        waiting = {backend.name: len(backend.waiting) for backend in backends if backend.waiting}
        for endpoint in endpoints:
            if endpoint.waiting:
                for name, share in shares(endpoint).items():
                    waiting[name] = waiting.get(name, 0) + share
        for name in self._missing(backends, failovers):
            waiting[name] = waiting.get(name, 0) + 1
        return waiting

    def _missing(self, backends: Collection[Backend], failovers: Mapping[str, int]) -> list[str]:
        """Backends without a replica whose share others took over, once that is a whole request.

        None waits for such a backend; yet it would stay without a replica, and its weight without effect.
        """
        missed: dict[str, float] = {}
        for backend in backends:
            if backend.config.autoscaling is not None and not backend.ready and backend.endpoints:
                shares = (e.entry.traffic[backend.name] * failovers.get(e.name, 0) for e in backend.endpoints)
                missed[backend.name] = self._missed.get(backend.name, 0.0) + sum(shares)
        self._missed = missed
        return [name for name, requests in missed.items() if requests >= 1]


def shares(endpoint: Endpoint) -> dict[str, int]:
    """The requests that wait at an endpoint, by the backends that may come; rounding is the heaviest one's."""
    targets = sorted((t for t in endpoint.targets if t.backend.coming), key=lambda target: -target.weight)
    if not targets:
        return {}
    total, parked = sum(target.weight for target in targets), len(endpoint.waiting)
    found = {target.name: int(parked * target.weight / total) for target in targets[1:]}
    return {targets[0].name: parked - sum(found.values()), **{name: share for name, share in found.items() if share}}
