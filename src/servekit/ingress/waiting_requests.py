"""How many requests wait for which backend: an ingress worker tells the controller, for autoscaling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from servekit.ingress.backend import Backend
from servekit.ingress.endpoint import Endpoint


class WaitingRequests:
    """Requests that wait, by backend. A request that waits at an endpoint, for any backend, is counted once.

    Requests at an endpoint are shared out by its weights, as they will be dispatched: counted for each backend, a few
    that wait would start replicas of every version, also of one that is to get a hundredth of them.
    """

    def __init__(self) -> None:
        self._taken_at = 0.0
        self._missed: dict[str, float] = {}
        """By backend without a replica, the requests that its weight asks for and that others took."""

    def take(
        self, endpoints: Collection[Endpoint], backends: Collection[Backend], failovers: Mapping[str, int], now: float
    ) -> dict[str, int]:
        """``failovers``: requests by endpoint, since the last call, that went elsewhere for want of a replica."""
        waiting = Counter({backend.name: len(backend.waiting) for backend in backends if backend.waiting})
        past_s, self._taken_at = now - self._taken_at, now
        for backend in backends:
            if backend.refused and (load := backend.take_refused(past_s)):
                waiting[backend.name] += load
        for endpoint in endpoints:
            if endpoint.waiting:
                waiting.update(shares(endpoint))
        waiting.update(self._missing(endpoints, failovers))
        return waiting

    def _missing(self, endpoints: Collection[Endpoint], failovers: Mapping[str, int]) -> list[str]:
        """Backends without a replica whose share others took over, once that is a whole request.

        No request waits for such a backend; yet it would stay without a replica, and its weight without effect.
        """
        before, self._missed = self._missed, {}
        for endpoint in endpoints:
            for target in endpoint.targets:
                if target.backend.config.autoscaling is not None and not target.backend.ready:
                    missed = self._missed.get(target.name, before.get(target.name, 0.0))
                    self._missed[target.name] = missed + target.weight * failovers.get(endpoint.name, 0)
        return [name for name, requests in self._missed.items() if requests >= 1]


def shares(endpoint: Endpoint) -> dict[str, int]:
    """The requests that wait at an endpoint, by the backends that may come; rounding is the heaviest one's."""
    targets = sorted((t for t in endpoint.targets if t.backend.coming), key=lambda target: -target.weight)
    if not targets:
        return {}
    total, parked = sum(target.weight for target in targets), len(endpoint.waiting)
    found = {target.name: int(parked * target.weight / total) for target in targets[1:]}
    return {targets[0].name: parked - sum(found.values()), **{name: share for name, share in found.items() if share}}
