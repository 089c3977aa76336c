"""A hash ring."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator


class Ring:
    """Names on a circle, each at a number of points. The points of a name depend on nothing but the name."""

    def __init__(self) -> None:
        self._points: list[tuple[int, str]] = []
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, points: int) -> None:
        """Put ``name`` on the ring at so many points; a name that is on the ring stays as it is."""
        if name not in self._names:
            self._names.add(name)
            self._points.extend((_point(f"{name}\0{number}"), name) for number in range(points))
            self._points.sort()

    def walk(self, key: str) -> Iterator[str]:
        """The names in the order of their points, once round the ring from the point of ``key``: a name comes often."""
        start = bisect.bisect(self._points, (_point(key), ""))
        for index in range(start, start + len(self._points)):
            yield self._points[index % len(self._points)][1]


def _point(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
