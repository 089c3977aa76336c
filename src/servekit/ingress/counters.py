"""What an ingress worker counts: numbers here, merged and exposed by the controller."""

from __future__ import annotations

from collections import Counter, defaultdict

from servekit.wire.control_frames import RequestCount


class Total:
    """Requests that ended in one way."""

    __slots__ = ("latency_s", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.latency_s = 0.0
        """Of all together."""


class Counters:
    """Since the last report."""

    def __init__(self) -> None:
        self.finished: defaultdict[tuple[str, str, int], Total] = defaultdict(Total)
        """By endpoint, backend and status."""
        self.failovers: Counter[str] = Counter()
        """Requests by endpoint that were sent on their way while some of its backends had no live replica."""

    def take_failovers(self) -> dict[str, int]:
        failovers, self.failovers = self.failovers, Counter()
        return failovers

    def take(self) -> list[RequestCount]:
        finished, self.finished = self.finished, defaultdict(Total)
        return [RequestCount(*key, total.requests, total.latency_s) for key, total in finished.items()]
