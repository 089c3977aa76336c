"""The requests that the ingress workers counted, by endpoint, by backend and by both, as `servekit.stat()` tells of
them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from operator import sub
from typing import Any

from servekit.control.recent import Name, Point, Recent
from servekit.control.totals import Sums, Totals
from servekit.tallies import COUNT, DURATION_US, FAILOVERS, FINE_BUCKETS, Key

_NOTHING: Sequence[int] = ()


class Counts:
    """Requests that ended since the instance began."""

    def __init__(self, totals: Totals | None = None) -> None:
        """``totals``: default, none that grow."""
        self.totals = totals or Totals(None)
        self._recent = Recent()

    def keep_only(self, endpoints: Collection[str], backends: Collection[str]) -> None:
        """Forget all others, which were deleted: what has such a name again begins anew."""
        sums, news = self.totals.read(), False
        for side, names in enumerate((endpoints, backends)):
            forgotten = self.totals.forgotten[side]
            for key, slots in sums.items():
                if key[0] != "request" or not (word := str(key[1 + side])) or word in names:
                    continue
                if forgotten.get(key) != slots:
                    forgotten[key], news = slots, True
                    self._recent.forget(side, word)
        if news:
            self.totals.save()

    def sample(self) -> None:
        """Take a sample for the percentiles of the last minute and hour."""
        tallies = self._tallies(self.totals.read())
        self._recent.sample(time.time(), {name: tally.values for name, tally in tallies.items()})

    def history(self, endpoint: str, backend: str, since: float = 0.0) -> list[Point]:
        """The samples of the last hour that were taken after ``since``, the oldest first. Either name may be empty,
        which stands for all."""
        return self._recent.history((endpoint, backend), since)

    def parts(self) -> list[Name]:
        """Which backends have had a part of which endpoints' requests in the last hour."""
        return [name for name in self._recent.names() if all(name)]

    def stat(self, endpoints: Iterable[str] = (), backends: Iterable[str] = ()) -> dict[str, Any]:
        """For `servekit.stat()`: by endpoint and by backend, how many requests were answered, with what status, and in
        what time, of these also where none was; of each endpoint the part of each backend too; and how many replicas of
        each backend were followed by another, by the reason."""
        sums = self.totals.read()
        tallies = {**{(name, ""): _Tally() for name in endpoints}, **{("", name): _Tally() for name in backends}}
        found: dict[str, dict[str, Any]] = {"": {}}
        for (endpoint, backend), tally in sorted((tallies | self._tallies(sums)).items()):
            told = {**tally.stat(), "latency_s": self._recent.latency_s((endpoint, backend), tally.values)}
            if backend:
                (found[endpoint]["backends"] if endpoint else found[""])[backend] = told
            else:
                found[endpoint] = {**told, "failovers": tally.failovers, "deadly": tally.deadly, "backends": {}}
        unrouted = sum(sum(slots[:FINE_BUCKETS]) for key, slots in sums.items() if key[:2] == ("request", ""))
        restarts: dict[str, dict[str, int]] = {}
        for key, slots in sums.items():
            if key[0] == "restart":
                restarts.setdefault(str(key[1]), {})[str(key[2])] = slots[COUNT]
        by_backend = found.pop("")
        return {
            "endpoints": found,
            "backends": by_backend,
            "unrouted": unrouted,
            "restarts": restarts,
        }

    def _tallies(self, sums: Sums) -> dict[Name, _Tally]:
        """By endpoint, by backend and by both, without what was forgotten."""
        found: dict[Name, _Tally] = {}
        for key, slots in sums.items():
            if key[0] != "request":
                continue
            of_endpoint, of_backend = (forgotten.get(key, _NOTHING) for forgotten in self.totals.forgotten)
            endpoint, backend = str(key[1]), str(key[2])
            _add(found, (endpoint, ""), key, slots, of_endpoint)
            _add(found, ("", backend), key, slots, of_backend)
            if endpoint and backend:
                # Of two states of one record, the later one is the greater.
                _add(found, (endpoint, backend), key, slots, max(of_endpoint, of_backend, key=sum))
        return found


def _add(found: dict[Name, _Tally], name: Name, key: Key, slots: Sequence[int], forgotten: Sequence[int]) -> None:
    """Add what a record has since it was forgotten to the tally of the name; a name of nothing has none."""
    if not any(name):
        return
    if forgotten:
        slots = list(map(sub, slots, forgotten))
    if any(slots[:FINE_BUCKETS]):
        found.setdefault(name, _Tally()).add(key, slots)


class _Tally:
    """The requests of one endpoint, of one backend, or of both."""

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
