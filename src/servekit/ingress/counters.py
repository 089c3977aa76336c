"""What an ingress worker counts: integers here, merged and exposed by the controller."""

from __future__ import annotations

from servekit.wire.frames import RequestCount


class Counters:
    """Finished requests by endpoint, backend and status, since the last `take`."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], list[float]] = {}

    def add(self, endpoint: str, backend: str, status: int, latency_s: float) -> None:
        key = (endpoint, backend, status)
        count = self._counts.get(key)
        if count is None:
            self._counts[key] = [1, latency_s]
        else:
            count[0] += 1
            count[1] += latency_s

    def take(self) -> list[RequestCount]:
        counts, self._counts = self._counts, {}
        return [
            RequestCount(endpoint, backend, status, int(requests), latency_s)
            for (endpoint, backend, status), (requests, latency_s) in counts.items()
        ]
