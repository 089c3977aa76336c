"""What the ingress workers counted, merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from servekit.wire.control_frames import RequestCount


class Counts:
    """Requests that ended, by endpoint, backend and status, since the controller began."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], list[float]] = {}
        self._failovers: Counter[str] = Counter()

    def add(self, counts: Iterable[RequestCount], failovers: Mapping[str, int]) -> None:
        self._failovers.update(failovers)
        for count in counts:
            entry = self._requests.setdefault((count.endpoint, count.backend, count.status), [0, 0.0])
            entry[0] += count.requests
            entry[1] += count.latency_s

    def stat(self) -> dict[str, Any]:
        """For `servekit.stat()`: by endpoint and by backend, what was answered, how, and in what mean time."""
        by_endpoint: dict[str, dict[str, Any]] = {}
        by_backend: dict[str, dict[str, Any]] = {}
        for (endpoint, backend, status), (requests, latency_s) in self._requests.items():
            for table, name in ((by_endpoint, endpoint), (by_backend, backend)):
                if name:
                    _count(table.setdefault(name, _nothing()), status, int(requests), latency_s)
        unrouted = sum(int(n) for (endpoint, _, _), (n, _) in self._requests.items() if not endpoint)
        for name, entry in by_endpoint.items():
            entry["failovers"] = self._failovers[name]
        for entry in (*by_endpoint.values(), *by_backend.values()):
            entry["mean_latency_s"] = entry.pop("latency_s") / entry["requests"]
        return {"endpoints": by_endpoint, "backends": by_backend, "unrouted": unrouted}


def _nothing() -> dict[str, Any]:
    return {"requests": 0, "by_status": {}, "latency_s": 0.0}


def _count(entry: dict[str, Any], status: int, requests: int, latency_s: float) -> None:
    entry["requests"] += requests
    entry["latency_s"] += latency_s
    entry["by_status"][str(status)] = entry["by_status"].get(str(status), 0) + requests
