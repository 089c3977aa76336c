"""The requests that the ingress workers counted, by endpoint and by backend, as `servekit.stat()` tells of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from operator import sub
from typing import Any

from servekit.control.recent import Name, Point, Recent
from servekit.control.totals import Sums, Totals
from servekit.tallies import COUNT, DURATION_US, FAILOVERS, FINE_BUCKETS, Key

_SIDES = ("endpoint", "backend")
"""The second and the third word in the key of a record of requests."""


class Counts:
    """Requests that ended since the instance began."""

    def __init__(self, totals: Totals | None = None) -> None:
        """``totals``: default, none that grow."""
        self.totals = totals or Totals(None)
        self._recent = Recent()

    def keep_only(self, endpoints: Collection[str], backends: Collection[str]) -> None:
        """Forget all others, which were deleted: what has such a name again begins anew."""
        sums, news = self.totals.read(), False
        for at, (side, names) in enumerate(zip(_SIDES, (endpoints, backends), strict=True), 1):
            forgotten = self.totals.forgotten[at - 1]
            for key, slots in sums.items():
                if key[0] == "request" and key[at] and key[at] not in names and forgotten.get(key) != slots:
                    forgotten[key], news = slots, True
                    self._recent.forget((side, str(key[at])))
        if news:
            self.totals.save()

    def sample(self) -> None:
        """Take a sample for the percentiles of the last minute and hour."""
        tallies = self._tallies(self.totals.read())
        self._recent.sample(time.time(), {name: tally.values for name, tally in tallies.items()})

    def history(self, side: str, name: str, since: float = 0.0) -> list[Point]:
        """The samples of the last hour of an ``endpoint``, or a ``backend``, that were taken after ``since``, the
        oldest first."""
        return self._recent.history((side, name), since)

    def stat(self, endpoints: Iterable[str] = (), backends: Iterable[str] = ()) -> dict[str, Any]:
        """For `servekit.stat()`: by endpoint and by backend, how many requests were answered, with what status, and in
        what time, of these also where none was; and how many replicas of each backend were followed by another, by the
        reason."""
        sums = self.totals.read()
        found: dict[str, dict[str, Any]] = {side: {} for side in _SIDES}
        tallies = {
            (side, name): _Tally() for side, names in zip(_SIDES, (endpoints, backends), strict=True) for name in names
        }
        for name, tally in (tallies | self._tallies(sums)).items():
            side = name[0]
            told = {**tally.stat(), "latency_s": self._recent.latency_s(name, tally.values)}
            if side == "endpoint":
                told |= {"failovers": tally.failovers, "deadly": tally.deadly}
            found[side][name[1]] = told
        unrouted = sum(sum(slots[:FINE_BUCKETS]) for key, slots in sums.items() if key[:2] == ("request", ""))
        restarts: dict[str, dict[str, int]] = {}
        for key, slots in sums.items():
            if key[0] == "restart":
                restarts.setdefault(str(key[1]), {})[str(key[2])] = slots[COUNT]
        return {
            "endpoints": found["endpoint"],
            "backends": found["backend"],
            "unrouted": unrouted,
            "restarts": restarts,
        }

    def _tallies(self, sums: Sums) -> dict[Name, _Tally]:
        """By endpoint and by backend, without what was forgotten."""
        found: dict[Name, _Tally] = {}
        for at, side in enumerate(_SIDES, 1):
            forgotten = self.totals.forgotten[at - 1]
            for key, slots in sums.items():
                if key[0] != "request" or not key[at]:
                    continue
                if key in forgotten:
                    slots = list(map(sub, slots, forgotten[key]))
                if any(slots[:FINE_BUCKETS]):
                    found.setdefault((side, str(key[at])), _Tally()).add(key, slots)
        return found


class _Tally:
    """The requests of one endpoint or backend."""

    def __init__(self) -> None:
        self.values = [0] * (FINE_BUCKETS + 2)
        """As `Recent` samples them."""
        self.failovers = self.deadly = 0
        self._by_status: Counter[str] = Counter()

    def add(self, key: Key, slots: Sequence[int]) -> None:
        status, error = int(key[4]), key[5]
        counts, values = slots[:FINE_BUCKETS], self.values
        requests = sum(counts)
        for at, count in enumerate(counts):
            values[at] += count
        values[FINE_BUCKETS] += slots[DURATION_US]
        if status >= 500:
            values[FINE_BUCKETS + 1] += requests
        self.failovers += slots[FAILOVERS]
        if error == "deadly_request":
            self.deadly += requests
        self._by_status[str(status)] += requests

    def stat(self) -> dict[str, Any]:
        requests = self._by_status.total()
        return {
            "requests": requests,
            "by_status": self._by_status,
            "mean_latency_s": self.values[FINE_BUCKETS] / requests / 1e6 if requests else 0.0,
        }
