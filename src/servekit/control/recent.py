"""The last hour of endpoints, of backends, and of a backend's part of an endpoint: requests, errors and how long they
took, in rings of fixed size.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from operator import add, sub
from typing import TypeAlias

import msgspec

from servekit.control.quantiles import quantile
from servekit.tallies import FINE_BOUNDS, FINE_BUCKETS

SAMPLE_EVERY_S = 10.0
IN_MINUTE = 6
IN_HOUR = 360
MOST_NAMES = 500
"""Of others nothing is kept. The ring of one that is never idle takes about 100 kB."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Name: TypeAlias = "tuple[str, str]"
"""Of an endpoint and of a backend; either may be empty, which stands for all."""
Values: TypeAlias = "Sequence[int]"
"""What there was since the instance began: a histogram by `FINE_BOUNDS`, behind it the sum in microseconds, and how
many requests ended with a status of 500 or above."""
_WIDTH = FINE_BUCKETS + 2
_NOTHING = [0] * _WIDTH


class Point(msgspec.Struct, frozen=True):
    """One sample of a name's history."""

    at: float
    """When it was taken, by ``time.time``."""
    requests: int
    """Since the sample before; likewise all that follows."""
    errors: int
    mean_s: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class Recent:
    """Samples of what has been counted, each with the difference to the one before."""

    def __init__(self) -> None:
        self._rings: dict[Name, _Ring] = {}
        self._times: deque[float] = deque(maxlen=IN_HOUR)
        self._began = False

    def sample(self, now: float, values: Mapping[Name, Values]) -> None:
        """Take a sample; the first says what there was before. Of a name that is not there any more all is
        forgotten."""
        for name in self._rings.keys() - values.keys():
            del self._rings[name]
        for name, counted in values.items():
            ring = self._rings.get(name)
            if ring is None:
                if len(self._rings) >= MOST_NAMES:
                    continue
                ring = self._rings[name] = _Ring(_NOTHING if self._began else counted)
            ring.take(counted)
        self._began = True
        self._times.append(now)

    def forget(self, side: int, word: str) -> None:
        """What had this name was deleted: an endpoint where ``side`` is 0, a backend where it is 1."""
        for name in [name for name in self._rings if name[side] == word]:
            del self._rings[name]

    def names(self) -> list[Name]:
        """Those of which there are samples."""
        return list(self._rings)

    def latency_s(self, name: Name, values: Values) -> dict[str, dict[str, float | None]]:
        """The percentiles of the last minute and hour, up to now, when there is ``values``."""
        is_new = self._began and len(self._rings) < MOST_NAMES
        ring = self._rings.get(name) or _Ring(_NOTHING if is_new else values)
        newest = list(map(sub, values, ring.last))
        return {
            "minute": _percentiles(list(map(add, ring.minute, newest))),
            "hour": _percentiles(list(map(add, ring.hour, newest))),
        }

    def history(self, name: Name, since: float = 0.0) -> list[Point]:
        """Its samples of the last hour that were taken after ``since``, the oldest first."""
        ring = self._rings.get(name)
        if ring is None or self._times[-1] <= since:
            return []
        times = list(self._times)[-len(ring.samples) :]
        return [_point(at, _dense(sample)) for at, sample in zip(times, ring.samples, strict=True) if at > since]


class _Ring:
    """The samples of one name, and the sums of the last minute and hour. Most buckets are empty: a sample has those
    that are not, each with its number."""

    def __init__(self, last: Values) -> None:
        self.last = last
        self.samples: deque[array[int] | None] = deque()
        self.minute = list(_NOTHING)
        self.hour = list(_NOTHING)

    def take(self, values: Values) -> None:
        if len(self.samples) == IN_HOUR:
            self._leave(self.hour, self.samples.popleft())
        if len(self.samples) >= IN_MINUTE:
            self._leave(self.minute, self.samples[-IN_MINUTE])
        pairs = [(at, new - old) for at, (new, old) in enumerate(zip(values, self.last, strict=True)) if new != old]
        for at, more in pairs:
            self.minute[at] += more
            self.hour[at] += more
        self.samples.append(array("q", [number for pair in pairs for number in pair]) if pairs else None)
        self.last = values

    @staticmethod
    def _leave(sums: list[int], sample: array[int] | None) -> None:
        for at, less in _pairs(sample):
            sums[at] -= less


def _pairs(sample: array[int] | None) -> list[tuple[int, int]]:
    return [] if sample is None else list(zip(sample[::2], sample[1::2], strict=True))


def _dense(sample: array[int] | None) -> list[int]:
    values = list(_NOTHING)
    for at, more in _pairs(sample):
        values[at] = more
    return values


def _percentiles(values: Values) -> dict[str, float | None]:
    return {name: _rounded(quantile(values[:FINE_BUCKETS], FINE_BOUNDS, share)) for name, share in SHARES.items()}


def _point(at: float, values: Values) -> Point:
    requests, total_us, errors = sum(values[:FINE_BUCKETS]), values[FINE_BUCKETS], values[FINE_BUCKETS + 1]
    return Point(at, requests, errors, total_us / requests / 1e6 if requests else None, **_percentiles(values))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
