"""How many requests came in the last minutes, and how long they took, as `servekit status --watch` draws it.

That is made of what `servekit.stat()` says, again and again. Nothing here asks or prints.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

CELLS = 18
CELL_S = 10.0
"""A character of a sparkline stands for so long."""
NOW_S = 5.0
"""Of how long the rates in figures are: ingress workers report about once a second."""
_MOST_READINGS = 400
BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.:-=+*#"
"""For terminals that have no others."""


class Reading(NamedTuple):
    """What was said of one endpoint at one time: requests since the instance began, and ``p99_s`` of the last
    minute."""

    at: float
    requests: int = 0
    failed: int = 0
    """Those that ended with a 5xx."""
    p99_s: float | None = None
    """None: nothing came in that minute."""


class Span(NamedTuple):
    """What happened between two readings; None: nothing is known, or, of a latency, nothing came."""

    rate: float | None = None
    failed: float | None = None
    """A share."""
    latency_s: float | None = None
    """The 99th percentile."""


class Trend:
    """The last readings of one endpoint."""

    def __init__(self) -> None:
        self._readings: deque[Reading] = deque(maxlen=_MOST_READINGS)

    def add(self, reading: Reading) -> None:
        """Take one more. Where there are fewer requests than before, who counts has begun anew, and so does the
        trend."""
        if self._readings and reading.requests < self._readings[-1].requests:
            self._readings.clear()
        self._readings.append(reading)

    def now(self) -> Span:
        """The last seconds; the latency is of the last minute."""
        last = self._readings[-1]
        return self._span(last.at - NOW_S, last.at)._replace(latency_s=last.p99_s)

    def cells(self) -> list[Span]:
        """The last minutes, the oldest first, in pieces of `CELL_S` whose ends stay where they are as time goes on."""
        newest = math.floor(self._readings[-1].at / CELL_S)
        return [self._cell(number * CELL_S) for number in range(newest - CELLS + 1, newest + 1)]

    def _cell(self, begins: float) -> Span:
        told = [r.p99_s for r in self._readings if begins <= r.at < begins + CELL_S and r.p99_s is not None]
        return self._span(begins, begins + CELL_S)._replace(latency_s=max(told, default=None))

    def _span(self, begins: float, ends: float) -> Span:
        """Between the last reading up to ``begins``, or the first of all, and the last up to ``ends``."""
        earlier = [reading for reading in self._readings if reading.at <= begins] or [self._readings[0]]
        first, last = earlier[-1], [*earlier, *(r for r in self._readings if begins < r.at <= ends)][-1]
        if last.at <= first.at:
            return Span()
        requests = last.requests - first.requests
        rate = requests / (last.at - first.at)
        if not requests:
            return Span(rate)
        return Span(rate, (last.failed - first.failed) / requests)


class Trends:
    """The trends of all endpoints."""

    def __init__(self) -> None:
        self._trends: dict[str, Trend] = {}

    def add(self, at: float, stat: Mapping[str, Any], endpoints: Iterable[str]) -> dict[str, Trend]:
        """Take what `servekit.stat()` said at this time; returns the trend of each endpoint, and forgets all others."""
        told = stat["endpoints"]
        trends = {name: self._trends.get(name, Trend()) for name in endpoints}
        for name, trend in trends.items():
            trend.add(reading_of(at, told.get(name)))
        self._trends = trends
        return trends


def reading_of(at: float, told: Mapping[str, Any] | None) -> Reading:
    """What `servekit.stat()` says of an endpoint; None: nothing has come."""
    if told is None:
        return Reading(at)
    requests = told["requests"]
    failed = sum(count for status, count in told["by_status"].items() if status >= "500")
    p99_s = told.get("latency_s", {}).get("minute", {}).get("p99")
    return Reading(at, requests, failed, p99_s)


def shares(rows: int, wanted: Sequence[int]) -> list[int]:
    """How many rows each of several tables gets: what it wants where there is room, else as much as the others, and at
    least one."""
    found = [0] * len(wanted)
    for place, at in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        found[at] = max(1, min(wanted[at], -(-rows // (len(wanted) - place))))
        rows -= found[at]
    return found


def sparkline(values: Sequence[float | None], blocks: str = BLOCKS) -> str:
    """A character a value, the highest for the greatest of them; a blank where there is none."""
    most = max((value for value in values if value is not None), default=0.0)

    def block(value: float | None) -> str:
        if value is None:
            return " "
        return blocks[0] if most <= 0 else blocks[min(len(blocks) - 1, int(value / most * len(blocks)))]

    return "".join(map(block, values))
