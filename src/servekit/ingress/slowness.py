"""Which requests are slow: those that take longer than 99 of 100 of the last ones of their endpoint.

The threshold of each endpoint is learned once a second, off the road of requests; a request compares once with it.
Latencies of a second are not those of the next: where more requests are slow than 1 of 100 would be, the threshold goes
up until it is learned anew, so that no more of them are remembered.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from typing import Protocol

from servekit.ingress.recent import RecentRequests

_log = logging.getLogger("servekit.ingress")

LEARN_EVERY_S = 1.0
FEWEST = 20
"""Of fewer requests nothing is slow."""
RAISED = 1.05
"""By so much a threshold goes up for each request that is one slow request too many."""
WINDOW = 1000
"""The last requests of an endpoint that its threshold is made of."""
MOST_AT_A_TIME = 1000
"""Records that are looked at each time: where more came, some of all that are remembered, for a burst is not alike."""


def slow_above_s(latencies_s: Collection[float]) -> float:
    """Their 99th percentile: the least of them that 99 of 100 do not exceed. Infinite where they are too few."""
    if len(latencies_s) < FEWEST:
        return math.inf
    return sorted(latencies_s)[math.ceil(len(latencies_s) * 0.99) - 1]


class HasSlow(Protocol):
    """An `Endpoint`, as far as slow requests go."""

    slow_s: float


class Slowness:
    """Learns from the records of requests, for each endpoint, when a request is slow."""

    def __init__(self, recent: RecentRequests) -> None:
        self._recent = recent
        self._seen = 0
        """How many had been added when they were looked at last."""
        self._left = FEWEST
        """How many more may be slow before the next look."""
        self._latencies: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    async def run(self, endpoints: Mapping[str, HasSlow]) -> None:
        """Learn once a second, until cancelled."""
        while True:
            await asyncio.sleep(LEARN_EVERY_S)
            try:
                self.learn(endpoints)
            except Exception:
                _log.exception("what is slow could not be learned")

    def found(self, endpoint: HasSlow) -> None:
        """A request of the endpoint was slow."""
        self._left -= 1
        if self._left < 0:
            endpoint.slow_s *= RAISED

    def learn(self, endpoints: Mapping[str, HasSlow]) -> None:
        """Look at the records since the last time, and tell the endpoints. Of endpoints that are gone, forget all."""
        changed = self._look()
        for name in self._latencies.keys() - endpoints.keys():
            del self._latencies[name]
        for name, endpoint in endpoints.items():
            if name in changed or (math.isinf(endpoint.slow_s) and name in self._latencies):
                endpoint.slow_s = slow_above_s(self._latencies[name])

    def _look(self) -> set[str]:
        """Take over the latencies of the new records; returns the endpoints that have any. An answer that is an error
        of the server's says nothing of how long answers take."""
        fresh, self._seen = self._recent.added - self._seen, self._recent.added
        self._left = max(FEWEST, fresh // 100)
        changed = set()
        for endpoint, status, latency_s in self._recent.last(fresh, MOST_AT_A_TIME):
            if endpoint and status < 500:
                self._latencies[endpoint].append(latency_s)
                changed.add(endpoint)
        return changed
