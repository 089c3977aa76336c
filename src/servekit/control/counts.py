"""The requests that the ingress workers counted, added up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from servekit.wire.control_frames import RequestCount


class Counts:
    """Requests that ended since the controller began."""

    def __init__(self) -> None:
        self._endpoints: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._backends: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._failovers: Counter[str] = Counter()
        self._deadly: Counter[str] = Counter()
        self._unrouted = 0
        """Requests that belonged to no endpoint."""

    def add(self, counts: Iterable[RequestCount], failovers: Mapping[str, int], deadly: Mapping[str, int]) -> None:
        self._failovers.update(failovers)
        self._deadly.update(deadly)
        for count in counts:
            if count.endpoint:
                self._endpoints[count.endpoint].add(count)
            else:
                self._unrouted += count.requests
            if count.backend:
                self._backends[count.backend].add(count)

    def keep_only(self, endpoints: Collection[str], backends: Collection[str]) -> None:
        """Forget all others, which were deleted."""
        for tallies, names in (
            (self._endpoints, endpoints),
            (self._failovers, endpoints),
            (self._deadly, endpoints),
            (self._backends, backends),
        ):
            for name in [name for name in tallies if name not in names]:
                del tallies[name]

    def stat(self) -> dict[str, Any]:
        """For `servekit.stat()`: by endpoint and by backend, how many requests were answered, with what status, and in
        what mean time."""
        endpoints = {
            name: {**tally.stat(), "failovers": self._failovers[name], "deadly": self._deadly[name]}
            for name, tally in self._endpoints.items()
        }
        backends = {name: tally.stat() for name, tally in self._backends.items()}
        return {"endpoints": endpoints, "backends": backends, "unrouted": self._unrouted}


class _Tally:
    """The requests of one endpoint or backend."""

    def __init__(self) -> None:
        self._by_status: Counter[str] = Counter()
        self._latency_s = 0.0

    def add(self, count: RequestCount) -> None:
        self._by_status[str(count.status)] += count.requests
        self._latency_s += count.latency_s

    def stat(self) -> dict[str, Any]:
        requests = self._by_status.total()
        return {"requests": requests, "by_status": self._by_status, "mean_latency_s": self._latency_s / requests}
