"""The deadlines of many requests, from one coarse timer per worker rather than a timer per request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

GRAIN_S = 0.02


class Expiring(Protocol):
    bucket: set[Expiring] | None


class Deadlines:
    """Requests by the grain of time in which they expire. The timer runs only while there is something to wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[Expiring], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._buckets: dict[int, set[Expiring]] = {}
        self._swept = 0
        """Every bucket up to this one has been emptied."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Expiring, at: float) -> None:
        """``expired(item)`` is called up to two grains after the loop's time ``at``, unless `discard` came first."""
        number = int(at / GRAIN_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            if self._timer is None:
                self._swept = int(self._loop.time() / GRAIN_S)
                self._timer = self._loop.call_later(GRAIN_S, self._sweep)
        bucket.add(item)
        item.bucket = bucket

    @staticmethod
    def discard(item: Expiring) -> None:
        bucket = item.bucket
        if bucket is not None:
            bucket.discard(item)
            item.bucket = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        swept, self._swept = self._swept, int(self._loop.time() / GRAIN_S)
        for number in range(swept + 1, self._swept + 1):
            bucket = self._buckets.pop(number, None)
            while bucket:
                item = bucket.pop()
                item.bucket = None
                self._expired(item)
        self._timer = self._loop.call_later(GRAIN_S, self._sweep) if self._buckets else None
