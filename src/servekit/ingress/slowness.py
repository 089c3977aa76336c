"""Which requests are slow: those that take longer than 99 of 100 of the last ones of their endpoint.

The threshold of each endpoint is learned once a second, off the road of requests; a request compares once with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Protocol

from servekit.interfaces import RequestRecord

_log = logging.getLogger("servekit.ingress")

LEARN_EVERY_S = 1.0
FEWEST = 20
"""Of fewer requests nothing is slow."""
WINDOW = 1000
"""The last requests of an endpoint that its threshold is made of."""
MOST_AT_A_TIME = 2000
"""Records that are looked at each time: where more came, the last ones."""


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

    def __init__(self, recent: deque[RequestRecord]) -> None:
        self._recent = recent
        self._seen: RequestRecord | None = None
        """The last record that was looked at."""
        self._latencies: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))

    async def run(self, endpoints: Mapping[str, HasSlow]) -> None:
        """Learn once a second, until cancelled."""
        while True:
            await asyncio.sleep(LEARN_EVERY_S)
            try:
                self.learn(endpoints)
            except Exception:
                _log.exception("what is slow could not be learned")

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
        fresh: list[RequestRecord] = []
        for record in islice(reversed(self._recent), MOST_AT_A_TIME):
            if record is self._seen:
                break
            fresh.append(record)
        if fresh:
            self._seen = fresh[0]
        counted = [record for record in reversed(fresh) if record.endpoint and record.status < 500]
        for record in counted:
            self._latencies[record.endpoint].append(record.latency_s)
        return {record.endpoint for record in counted}
