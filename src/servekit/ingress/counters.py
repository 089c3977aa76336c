"""What an ingress worker counts: integers here, merged and exposed by the controller."""

from __future__ import annotations

from collections import Counter

from servekit.wire.control_frames import RequestCount


class Counters:
    """Finished requests by endpoint, backend and status, since the last `take`."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], list[float]] = {}
        self._failovers: Counter[str] = Counter()

    def add(self, endpoint: str, backend: str, status: int, latency_s: float) -> None:
        key = (endpoint, backend, status)
        count = self._counts.get(key)
        if count is None:
            self._counts[key] = [1, latency_s]
        else:
            count[0] += 1
            count[1] += latency_s

    def add_failover(self, endpoint: str) -> None:
        """A request was sent on its way while some of the endpoint's backends had no live replica."""
        self._failovers[endpoint] += 1

    def take_failovers(self) -> dict[str, int]:
        failovers, self._failovers = self._failovers, Counter()
        return failovers

    def take(self) -> list[RequestCount]:
        counts, self._counts = self._counts, {}
        return [
            RequestCount(endpoint, backend, status, int(requests), latency_s)
            for (endpoint, backend, status), (requests, latency_s) in counts.items()
        ]
